// src/cpu/isa/avx512bf16_emulated.cpp: AVX-512 BF16's row on AVX2: in place of avx512bf16.cpp where WINDOW_MATMUL_EMULATE_AVX512 is set.
#include "cpu/simd/avx512bf16_emulated.hpp"

#include "cpu/kernels/table.inl.hpp"

namespace window_matmul::cpu {

const IsaKernels& avx512bf16_kernels() {
  static constexpr IsaKernels kernels = make_kernels_in_pairs<Avx512Bf16Emulated<float>>();
  return kernels;
}

}  // namespace window_matmul::cpu
