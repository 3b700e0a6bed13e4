// src/cpu/isa/avx2.cpp: the kernels compiled for AVX2, FMA and F16C.
#include "cpu/simd/avx2.hpp"

#include "cpu/kernels/table.inl.hpp"

namespace window_matmul::cpu {

const IsaKernels& avx2_kernels() {
  static constexpr IsaKernels kernels = make_isa_kernels<Avx2>();
  return kernels;
}

}  // namespace window_matmul::cpu
