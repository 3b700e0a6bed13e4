// src/cpu/isa/avx512.cpp: the kernels compiled for AVX-512.
#include "cpu/simd/avx512.hpp"

#include "cpu/kernels/table.inl.hpp"

namespace window_matmul::cpu {

const IsaKernels& avx512_kernels() {
  static constexpr IsaKernels kernels = make_isa_kernels<Avx512>();
  return kernels;
}

}  // namespace window_matmul::cpu
