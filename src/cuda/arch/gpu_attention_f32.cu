// src/cuda/arch/gpu_attention_f32.cu: fused attention of fp32.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<float>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
