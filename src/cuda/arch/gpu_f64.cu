// src/cuda/arch/gpu_f64.cu: the kernels of fp64.
#include "cuda/arch/enqueue.cuh"

namespace window_matmul::cuda {

template int enqueue<double>(const Plan& plan, const Launch& launch, void* stream);

}  // namespace window_matmul::cuda
