// src/cpu/isa/amx_emulated.cpp: AMX's row on AVX2: in place of amx.cpp where WINDOW_MATMUL_EMULATE_AVX512 is set.
#include "cpu/simd/amx_emulated.hpp"

#include "cpu/kernels/pairs/table.inl.hpp"

namespace window_matmul::cpu {

const IsaKernels& amx_kernels() {
  static constexpr IsaKernels kernels = make_pair_kernels<AmxEmulated<float>>();
  return kernels;
}

}  // namespace window_matmul::cpu
