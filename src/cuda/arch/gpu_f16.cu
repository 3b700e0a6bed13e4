// src/cuda/arch/gpu_f16.cu: the kernels of fp16.
#include "cuda/arch/enqueue.cuh"

namespace window_matmul::cuda {

template int enqueue<f16>(const Plan&, const Launch&, void*);

}  // namespace window_matmul::cuda
