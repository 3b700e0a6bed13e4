// src/cpu/isa/avx512_emulated.cpp: AVX-512's row on AVX2: in place of avx512.cpp where WINDOW_MATMUL_EMULATE_AVX512 is set.
#include "cpu/simd/avx512_emulated.hpp"

#include "cpu/kernels/table.inl.hpp"

namespace window_matmul::cpu {

const IsaKernels& avx512_kernels() {
  static constexpr IsaKernels kernels = make_isa_kernels<Avx512Emulated>();
  return kernels;
}

}  // namespace window_matmul::cpu
