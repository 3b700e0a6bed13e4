// src/cuda/arch/emulated_backward_tf32.cpp: the gradients of fused attention of fp32 by three of TF32, in the emulation.
#include "cuda/arch/emulate_backward.cuh"

namespace window_matmul::cuda::emulation {

template void emulate_backward<tf32x3>(const Plan&, const AttentionLaunch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
