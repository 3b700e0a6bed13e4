// src/cuda/arch/gpu_attention_tf32.cu: fused attention of fp32 by three products of TF32.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<tf32x3>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
