// src/cuda/arch/gpu_f16.cu: the kernels of fp16.
#include "cuda/arch/enqueue.cuh"

namespace window_matmul::cuda {

template int enqueue<f16>(const Plan& plan, const Launch& launch, void* stream);

}  // namespace window_matmul::cuda
