// src/cuda/arch/emulated_backward_f32.cpp: the gradients of fused attention of fp32, in the emulation.
#include "cuda/arch/emulate_backward.cuh"

namespace window_matmul::cuda::emulation {

template void emulate_backward<float>(const Plan&, const AttentionLaunch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
