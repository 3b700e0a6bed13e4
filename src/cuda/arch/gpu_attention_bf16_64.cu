// src/cuda/arch/gpu_attention_bf16_64.cu: fused attention of bf16, head dims padded to 64.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<bf16, 64>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
