// src/cuda/arch/emulated_backward_f64.cpp: the gradients of fused attention of fp64, in the emulation.
#include "cuda/arch/emulate_backward.cuh"

namespace window_matmul::cuda::emulation {

template void emulate_backward<double>(const Plan&, const AttentionLaunch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
