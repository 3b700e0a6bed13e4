// src/cuda/kernels/elements.hpp: the element types of kernels, and which of them a plan's has.
#pragma once

#include "cuda/kernels/choice.hpp"
#include "half.hpp"

namespace window_matmul::cuda {

// An fp32 number whose products are taken by tensor cores (tensor_core_product.cuh).
struct tf32x3 {
  float value;
};
using window_matmul::widen;
WINDOW_MATMUL_INLINE float widen(tf32x3 x) { return x.value; }

// Calls f.operator()<E>().
template <class F>
void with_element(const Plan& plan, F&& f) {
  switch (plan.dtype) {
    case DType::f64:
      return f.template operator()<double>();
    case DType::f32:
      if (plan.precision == Precision::high) return f.template operator()<tf32x3>();
      return f.template operator()<float>();
    case DType::bf16:
      return f.template operator()<bf16>();
    case DType::f16:
      return f.template operator()<f16>();
  }
}

}  // namespace window_matmul::cuda
