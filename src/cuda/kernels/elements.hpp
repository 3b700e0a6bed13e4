// src/cuda/kernels/elements.hpp: the element type of a plan's kernel.
#pragma once

#include "cuda/plan.hpp"
#include "half.hpp"

namespace window_matmul::cuda {

// Calls f.operator()<E>().
template <class F>
void with_element(const Plan& plan, F&& f) {
  switch (plan.dtype) {
    case DType::f64:
      return f.template operator()<double>();
    case DType::f32:
      return f.template operator()<float>();
    case DType::bf16:
      return f.template operator()<bf16>();
    case DType::f16:
      return f.template operator()<f16>();
  }
}

}  // namespace window_matmul::cuda
