// src/cuda/arch/gpu_attention_f64_64.cu: fused attention of fp64, head dims padded to 64.
#include "cuda/arch/enqueue_attention.cuh"

namespace window_matmul::cuda {

template int enqueue_attention<double, 64>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
