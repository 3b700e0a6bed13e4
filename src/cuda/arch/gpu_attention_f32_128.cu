// src/cuda/arch/gpu_attention_f32_128.cu: fused attention of fp32, head dims padded to 128.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<float, 128>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
