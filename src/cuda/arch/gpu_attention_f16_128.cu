// src/cuda/arch/gpu_attention_f16_128.cu: fused attention of fp16, head dims padded to 128.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<f16, 128>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
