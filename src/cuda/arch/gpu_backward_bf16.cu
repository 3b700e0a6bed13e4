// src/cuda/arch/gpu_backward_bf16.cu: the gradients of fused attention of bf16.
#include "cuda/arch/enqueue_backward.cuh"

namespace window_matmul::cuda {

template int enqueue_backward<bf16>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
