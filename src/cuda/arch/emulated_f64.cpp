// src/cuda/arch/emulated_f64.cpp: the kernels of fp64, in the emulation.
#include "cuda/arch/emulate.cuh"

namespace window_matmul::cuda::emulation {

template void emulate<double>(const Plan&, const Launch&, index_t, GlobalMemory&, Report&, const Settings&);

}  // namespace window_matmul::cuda::emulation
