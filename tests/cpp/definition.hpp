// tests/cpp/definition.hpp: what each operator computes, in double, written from the definitions alone.
#pragma once

#include <vector>

#include "cases.hpp"
#include "compare.hpp"

namespace window_matmul::testing_tools {

// One head of a call: row-major matrices and the window.
struct Head {
  const double *x = nullptr, *y = nullptr;
  index_t rows = 0, cols = 0, left = 0, right = 0, shift = 0, dilation = 1, dim = 0;
  double fill = 0;
  DType dtype = DType::f32;

  index_t width() const { return left + 1 + right; }
  index_t key(index_t i, index_t c) const { return i + shift + (c - left) * dilation; }
  bool exists(index_t i, index_t c) const { return 0 <= key(i, c) && key(i, c) < cols; }
  double in_x(index_t r, index_t c, index_t width_of_x) const { return x[r * width_of_x + c]; }

  template <class F>
  void for_each_pair(F f) const {  // f(query, slot, key)
    for (index_t i = 0; i < rows; ++i) {
      for (index_t c = 0; c < width(); ++c) {
        if (exists(i, c)) f(i, c, key(i, c));
      }
    }
  }
};

using Numbers = std::vector<Expected>;

Numbers evaluate(Op op, const Head& head);

}  // namespace window_matmul::testing_tools
