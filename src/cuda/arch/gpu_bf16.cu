// src/cuda/arch/gpu_bf16.cu: the kernels of bf16.
#include "cuda/arch/enqueue.cuh"

namespace window_matmul::cuda {

template int enqueue<bf16>(const Plan&, const Launch&, void*);

}  // namespace window_matmul::cuda
