// src/cuda/arch/emulated_attention_f32.cpp: fused attention of fp32, in the emulation.
#include "cuda/arch/emulate_attention.cuh"

namespace window_matmul::cuda::emulation {

template void emulate_attention<float>(const Plan&, const AttentionLaunch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
