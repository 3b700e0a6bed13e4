// src/cuda/arch/gpu_tf32.cu: the products of fp32 by three of TF32.
#include "cuda/arch/enqueue.cuh"

namespace window_matmul::cuda {

template int enqueue<tf32x3>(const Plan&, const Launch&, void*);

}  // namespace window_matmul::cuda
