// src/cpu/isa/amx.cpp: the kernels of bf16 compiled for AMX.
#include "cpu/simd/amx.hpp"

#include "cpu/kernels/pairs/table.inl.hpp"

namespace window_matmul::cpu {

const IsaKernels& amx_kernels() {
  static constexpr IsaKernels kernels = make_pair_kernels<Amx<float>>();
  return kernels;
}

}  // namespace window_matmul::cpu
