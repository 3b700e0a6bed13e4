// src/cpu/isa/scalar.cpp: the kernels compiled for any x86-64 (or other) processor.
#include "cpu/simd/scalar.hpp"

#include "cpu/kernels/table.inl.hpp"

namespace window_matmul::cpu {

const IsaKernels& scalar_kernels() {
  static constexpr IsaKernels kernels = make_isa_kernels<Scalar1>();
  return kernels;
}

}  // namespace window_matmul::cpu
