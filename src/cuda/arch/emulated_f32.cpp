// src/cuda/arch/emulated_f32.cpp: the kernels of fp32, in the emulation.
#include "cuda/arch/emulate.cuh"

namespace window_matmul::cuda::emulation {

template void emulate<float>(const Plan&, const Launch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
