// src/cuda/arch/gpu_attention_f16.cu: fused attention of fp16.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<f16>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
