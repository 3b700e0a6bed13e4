// src/cuda/arch/emulated_attention_f16.cpp: fused attention of fp16, in the emulation.
#include "cuda/arch/emulate_attention.cuh"

namespace window_matmul::cuda::emulation {

template void emulate_attention<f16>(const Plan&, const AttentionLaunch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
