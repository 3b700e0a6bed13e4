// src/cuda/arch/gpu_backward_f16.cu: the gradients of fused attention of fp16.
#include "cuda/arch/enqueue_backward.cuh"

namespace window_matmul::cuda {

template int enqueue_backward<f16>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
