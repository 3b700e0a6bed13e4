// src/cuda/arch/gpu_attention_f64.cu: fused attention of fp64.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<double>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
