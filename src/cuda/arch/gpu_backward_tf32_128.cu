// src/cuda/arch/gpu_backward_tf32_128.cu: the gradients of fused attention of fp32 by three of TF32, head dims padded to 128.
#include "cuda/arch/enqueue_backward.cuh"

namespace window_matmul::cuda {

template int enqueue_backward<tf32x3, 128>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
