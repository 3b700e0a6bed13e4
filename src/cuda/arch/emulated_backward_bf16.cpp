// src/cuda/arch/emulated_backward_bf16.cpp: the gradients of fused attention of bf16, in the emulation.
#include "cuda/arch/emulate_backward.cuh"

namespace window_matmul::cuda::emulation {

template void emulate_backward<bf16>(const Plan&, const AttentionLaunch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
