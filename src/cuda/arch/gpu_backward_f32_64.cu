// src/cuda/arch/gpu_backward_f32_64.cu: the gradients of fused attention of fp32, head dims padded to 64.
#include "cuda/arch/enqueue_backward.cuh"

namespace window_matmul::cuda {

template int enqueue_backward<float, 64>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
