// src/cuda/arch/gpu_f64.cu: the kernels of fp64.
#include "cuda/arch/enqueue.cuh"

namespace window_matmul::cuda {

template int enqueue<double>(const Plan&, const Launch&, void*);

}  // namespace window_matmul::cuda
