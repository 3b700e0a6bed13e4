// src/cuda/arch/gpu_attention_tf32_128.cu: fused attention of fp32 by three products of TF32, head dims padded to 128.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<tf32x3, 128>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
