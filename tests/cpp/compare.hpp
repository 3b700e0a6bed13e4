// tests/cpp/compare.hpp: expected numbers with tolerances derived from the rounding they allow, and the report of the worst element; the
// words of a refusal.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "buffers.hpp"
#include "window_matmul/problem.hpp"
#include "window_matmul/status.hpp"

namespace window_matmul::testing_tools {

struct Expected {
  double value = 0, tolerance = 0;
};

// The error of rounding `value`, known within `error`, once to `dtype`.
inline Expected stored(DType dtype, double value, double error) {
  if (value == 0 && error == 0) return {};
  const Format& format = format_of(dtype);
  return {value, error + format.roundoff * (std::abs(value) + error) + format.quantum / 2};
}

// A sum of products. In whatever order it is summed, with or without fused multiply-adds, each term takes part in at most `terms`
// roundings; each product may lose a subnormal quantum. The sum below, in double, errs likewise.
struct Sum {
  double value = 0, magnitude = 0;
  index_t terms = 0;

  void add(double a, double b) {
    value += a * b;
    magnitude += std::abs(a * b);
    ++terms;
  }
  double error(DType dtype) const {
    const Format& format = sum_format_of(dtype);
    const auto n = static_cast<double>(terms);
    return n * (format.roundoff + format_of(DType::f64).roundoff) * magnitude * (1 + n * format.roundoff) + n * format.quantum / 2;
  }
  Expected in(DType dtype) const { return stored(dtype, value, error(dtype)); }
};

inline bool same_special(double got, double want) { return (std::isnan(got) && std::isnan(want)) || got == want; }

// How far off, in tolerances: at most 1 is right.
inline double misfit(double got, const Expected& want) {
  if (same_special(got, want.value)) return 0;
  if (!std::isfinite(want.value)) return kInf;  // whatever the tolerance
  const double error = std::abs(got - want.value);
  return error <= want.tolerance ? error / want.tolerance : want.tolerance > 0 && std::isfinite(error) ? error / want.tolerance : kInf;
}

std::string place(const Shape& shape, index_t flat);
testing::AssertionResult close(const Tensor& got, const std::vector<Expected>& want);

// Whether `op` refused its arguments with these words, in this order; " ... " stands for anything.
testing::AssertionResult refuses(Op op, const Status& status, std::string_view words);

}  // namespace window_matmul::testing_tools
