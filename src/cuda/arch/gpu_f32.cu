// src/cuda/arch/gpu_f32.cu: the kernels of fp32.
#include "cuda/arch/enqueue.cuh"

namespace window_matmul::cuda {

template int enqueue<float>(const Plan&, const Launch&, void*);

}  // namespace window_matmul::cuda
