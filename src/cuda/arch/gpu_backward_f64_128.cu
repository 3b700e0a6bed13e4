// src/cuda/arch/gpu_backward_f64_128.cu: the gradients of fused attention of fp64, head dims padded to 128.
#include "cuda/arch/enqueue_backward.cuh"

namespace window_matmul::cuda {

template int enqueue_backward<double, 128>(const Plan&, const AttentionLaunch&, void*);

}  // namespace window_matmul::cuda
