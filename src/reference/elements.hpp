// src/reference/elements.hpp: matrices of any dtype, read and written as double.
#pragma once

#include "half.hpp"
#include "task.hpp"

namespace window_matmul::reference {

struct Elements {
  Matrix m;
  DType dtype;

  void* at(index_t r, index_t c) const {
    const index_t bytes = (r * m.row_stride + c * m.col_stride) * static_cast<index_t>(size_of(dtype));
    return reinterpret_cast<void*>(m.address + static_cast<std::uintptr_t>(bytes));
  }
  double operator()(index_t r, index_t c) const {
    const void* p = at(r, c);
    switch (dtype) {
      case DType::f64:
        return *static_cast<const double*>(p);
      case DType::f32:
        return *static_cast<const float*>(p);
      case DType::bf16:
        return widen(*static_cast<const bf16*>(p));
      case DType::f16:
        return widen(*static_cast<const f16*>(p));
    }
    return 0;
  }
  void set(index_t r, index_t c, double value) const {
    void* p = at(r, c);
    switch (dtype) {
      case DType::f64:
        *static_cast<double*>(p) = value;
        break;
      case DType::f32:
        *static_cast<float*>(p) = static_cast<float>(value);
        break;
      case DType::bf16:
        *static_cast<bf16*>(p) = narrow<bf16>(static_cast<float>(value));
        break;
      case DType::f16:
        *static_cast<f16*>(p) = narrow<f16>(static_cast<float>(value));
        break;
    }
  }
};

}  // namespace window_matmul::reference
