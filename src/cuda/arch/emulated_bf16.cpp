// src/cuda/arch/emulated_bf16.cpp: the kernels of bf16, in the emulation.
#include "cuda/arch/emulate.cuh"

namespace window_matmul::cuda::emulation {

template void emulate<bf16>(const Plan&, const Launch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
