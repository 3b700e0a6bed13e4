// src/cpu/isa/avx512bf16.cpp: the kernels of bf16 compiled for AVX-512 BF16.
#include "cpu/simd/avx512bf16.hpp"

#include "cpu/kernels/table.inl.hpp"

namespace window_matmul::cpu {

const IsaKernels& avx512bf16_kernels() {
  static constexpr IsaKernels kernels = make_kernels_in_pairs<Avx512Bf16<float>>();
  return kernels;
}

}  // namespace window_matmul::cpu
