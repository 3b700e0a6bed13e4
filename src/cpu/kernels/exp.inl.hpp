// src/cpu/kernels/exp.inl.hpp: exp(x) for x <= 0, on any vocabulary. Zero where the result would be subnormal; NaN stays NaN.
//
// x = n ln 2 + r with n the nearest integer, so |r| <= ln 2 / 2; exp(r) by its Taylor series to the precision of the type; times 2^n.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/simd/concept.hpp"

namespace window_matmul::cpu {
namespace {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr int kTerms = 8;             // (ln 2 / 2)^8 / 8! = 5e-9
  static constexpr float kLowest = -87.3365f;  // ln of the smallest normal number
  static constexpr float kRound = 0x1.8p23f;   // adding it leaves the nearest integer in the low bits
  static constexpr float kBias = 127;
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;  // n * high is exact for |n| <= 256
};

template <>
struct ExpConstants<double> {
  static constexpr int kTerms = 14;  // (ln 2 / 2)^14 / 14! = 4e-18
  static constexpr double kLowest = -708.396;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kBias = 1023;
  static constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
};

template <class T>
constexpr T inverse_factorial(int n) {
  double product = 1;
  for (int i = 2; i <= n; ++i) product *= i;
  return static_cast<T>(1 / product);
}

template <Simd S>
[[gnu::always_inline]] inline typename S::Vec exp_nonpositive(typename S::Vec x) {
  using T = typename S::Scalar;
  using C = ExpConstants<T>;
  const auto constant = [](T value) { return S::splat(value); };
  const auto lowest = constant(C::kLowest);
  const auto t = S::where_less(x, lowest, lowest, x);
  const auto shifted = S::fma(t, constant(static_cast<T>(1.4426950408889634)), constant(C::kRound));
  const auto n = S::sub(shifted, constant(C::kRound));
  auto r = S::fma(n, constant(-C::kLn2High), t);
  r = S::fma(n, constant(-C::kLn2Low), r);
  auto sum = constant(inverse_factorial<T>(C::kTerms - 1));
#pragma GCC unroll 16
  for (int i = C::kTerms - 2; i >= 0; --i) sum = S::fma(sum, r, constant(inverse_factorial<T>(i)));
  const auto power = S::shift_to_exponent(S::add(shifted, constant(C::kBias)));
  return S::where_less(x, lowest, S::zero(), S::mul(sum, power));
}

}  // namespace
}  // namespace window_matmul::cpu
