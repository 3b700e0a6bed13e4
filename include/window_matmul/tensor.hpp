// include/window_matmul/tensor.hpp: a tensor as the kernels see it: memory, dtype, shape, strides. Owns nothing.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "window_matmul/band.hpp"

namespace window_matmul {

enum class DType : std::uint8_t { f64, f32, bf16, f16 };

constexpr std::size_t size_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }
constexpr const char* name_of(DType dtype) {
  constexpr const char* names[] = {"float64", "float32", "bfloat16", "float16"};
  return names[static_cast<int>(dtype)];
}

struct TensorView {
  static constexpr int kMaxRank = 16;

  void* data = nullptr;  // element (0, ..., 0); inputs are only read
  DType dtype = DType::f32;
  int rank = 0;
  index_t shape[kMaxRank] = {};
  index_t stride[kMaxRank] = {};  // in elements; 0 and negative ones are fine

  index_t size(int dim_from_end) const { return shape[rank - dim_from_end]; }
  index_t step(int dim_from_end) const { return stride[rank - dim_from_end]; }

  // A dense row-major tensor, e.g. contiguous(q.data(), DType::f32, {8, 4096, 64}). At most kMaxRank dims.
  static TensorView contiguous(const void* data, DType dtype, std::initializer_list<index_t> shape) {
    TensorView view{const_cast<void*>(data), dtype, static_cast<int>(shape.size())};
    int dim = 0;
    for (index_t extent : shape) view.shape[dim++] = extent;
    for (index_t step = 1; dim-- > 0; step *= view.shape[dim] > 0 ? view.shape[dim] : 1) view.stride[dim] = step;
    return view;
  }
  // The same memory with its last two dims swapped. Needs rank >= 2.
  TensorView transposed() const {
    TensorView view = *this;
    view.shape[rank - 1] = shape[rank - 2], view.shape[rank - 2] = shape[rank - 1];
    view.stride[rank - 1] = stride[rank - 2], view.stride[rank - 2] = stride[rank - 1];
    return view;
  }
};

}  // namespace window_matmul
