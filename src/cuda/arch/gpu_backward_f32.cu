// src/cuda/arch/gpu_backward_f32.cu: the gradients of fused attention of fp32.
#include "cuda/arch/enqueue_backward.cuh"

namespace window_matmul::cuda {

template int enqueue_backward<float>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
