// src/cuda/arch/gpu_attention_bf16_256.cu: fused attention of bf16, head dims padded to 256.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<bf16, 256>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
