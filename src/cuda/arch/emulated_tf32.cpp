// src/cuda/arch/emulated_tf32.cpp: the products of fp32 by three of TF32, in the emulation.
#include "cuda/arch/emulate.cuh"

namespace window_matmul::cuda::emulation {

template void emulate<tf32x3>(const Plan&, const Launch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
