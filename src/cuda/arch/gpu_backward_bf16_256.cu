// src/cuda/arch/gpu_backward_bf16_256.cu: the gradients of fused attention of bf16, head dims padded to 256.
#include "cuda/arch/enqueue_backward.cuh"

namespace window_matmul::cuda {

template int enqueue_backward<bf16, 256>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
