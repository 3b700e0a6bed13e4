// src/cuda/arch/gpu_bf16.cu: the kernels of bf16.
#include "cuda/arch/enqueue.cuh"

namespace window_matmul::cuda {

template int enqueue<bf16>(const Plan& plan, const Launch& launch, void* stream);

}  // namespace window_matmul::cuda
