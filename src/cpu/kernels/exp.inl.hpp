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

// ---- to the base 2, for scores in units of log 2 --------------------------------------------------------------------------------------

template <class T>
inline constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();
template <class T>
inline constexpr T kLog2E = static_cast<T>(1.4426950408889634);

// y, which is x in other units. The lowest numbers stay finite: only -inf hides a key.
template <class T>
[[gnu::always_inline]] inline T within_range(T y, T x) {
  return y == kMinusInfinity<T> && x != y ? std::numeric_limits<T>::lowest() : y;
}

template <class T>
struct Exp2Constants;

template <>
struct Exp2Constants<float> {  // minimax on [-1/2, 1/2] with 2^0 = 1 exactly: relative error 9e-8
  static constexpr float kCoefficients[] = {1, 0.6931469776f, 0.2402224208f, 0.0555073374f, 0.0096715127f, 0.0013264727f};
  static constexpr float kLowest = -126;
};

template <>
struct Exp2Constants<double> {  // ln(2)^n / n!: relative error 4e-18
  static constexpr double kCoefficients[] = {1,
                                             0x1.62e42fefa39efp-1,
                                             0x1.ebfbdff82c58fp-3,
                                             0x1.c6b08d704a0cp-5,
                                             0x1.3b2ab6fba4e77p-7,
                                             0x1.5d87fe78a6731p-10,
                                             0x1.430912f86c787p-13,
                                             0x1.ffcbfc588b0c7p-17,
                                             0x1.62c0223a5c824p-20,
                                             0x1.b5253d395e7c4p-24,
                                             0x1.e4cf5158b8ecap-28,
                                             0x1.e8cac7351bb25p-32,
                                             0x1.c3bd650fc2986p-36,
                                             0x1.816193166d0f9p-40};
  static constexpr double kLowest = -1022;
};

// 2^f for f from -1/2 to 1/2.
template <Simd S>
[[gnu::always_inline]] inline typename S::Vec exp2_of_fraction(typename S::Vec f) {
  using C = Exp2Constants<typename S::Scalar>;
  constexpr int kTerms = sizeof(C::kCoefficients) / sizeof(typename S::Scalar);
  auto sum = S::splat(C::kCoefficients[kTerms - 1]);
#pragma GCC unroll 16
  for (int i = kTerms - 2; i >= 0; --i) sum = S::fma(sum, f, S::splat(C::kCoefficients[i]));
  return sum;
}

// 2^x for x of at most 1 or so. Zero, or subnormal, where the result would be subnormal; 0 of -inf; NaN stays NaN.
template <Simd S>
[[gnu::always_inline]] inline typename S::Vec exp2_nonpositive(typename S::Vec x) {
  using T = typename S::Scalar;
  if constexpr (HasExponentWords<S>) {
    const auto f = S::fraction(x);
    return S::times_power_of_two(exp2_of_fraction<S>(f), S::sub(x, f));
  } else {
    const auto lowest = S::splat(Exp2Constants<T>::kLowest), round = S::splat(ExpConstants<T>::kRound);
    const auto t = S::where_less(x, lowest, lowest, x);
    const auto shifted = S::add(t, round);
    const auto sum = exp2_of_fraction<S>(S::sub(t, S::sub(shifted, round)));
    const auto power = S::shift_to_exponent(S::add(shifted, S::splat(ExpConstants<T>::kBias)));
    return S::where_less(x, lowest, S::zero(), S::mul(sum, power));
  }
}

// What is subtracted from scores whose maximum this is: of -inf (nothing seen yet) any finite number, as long as -inf minus it is -inf.
template <Simd S>
[[gnu::always_inline]] inline typename S::Vec finite_offset(typename S::Vec highest) {
  const auto other = S::where_less(highest, S::zero(), S::zero(), highest);
  return S::where_less(S::splat(kMinusInfinity<typename S::Scalar>), highest, highest, other);
}

// tanh x = -e / (e + 2) with e = exp(-2 |x|) - 1, which keeps its digits where x is small.
template <Simd S>
[[gnu::always_inline]] inline typename S::Vec hyperbolic_tangent(typename S::Vec x) {
  using T = typename S::Scalar;
  const auto lowest = S::splat(T{-60}), round = S::splat(ExpConstants<T>::kRound);  // 2^-60 is nothing beside 1
  const auto y = S::mul(S::max(S::sub(S::zero(), x), x), S::splat(static_cast<T>(-2 * 1.4426950408889634)));
  const auto t = S::where_less(y, lowest, lowest, y);
  const auto shifted = S::add(t, round);
  const auto r = S::mul(S::sub(t, S::sub(shifted, round)), S::splat(static_cast<T>(0.6931471805599453)));
  auto sum = S::splat(inverse_factorial<T>(ExpConstants<T>::kTerms - 1));
#pragma GCC unroll 16
  for (int i = ExpConstants<T>::kTerms - 2; i >= 1; --i) sum = S::fma(sum, r, S::splat(inverse_factorial<T>(i)));
  const auto power = S::shift_to_exponent(S::add(shifted, S::splat(ExpConstants<T>::kBias)));
  const auto e = S::fma(S::mul(sum, r), power, S::sub(power, S::splat(T{1})));
  const auto magnitude = S::div(S::sub(S::zero(), e), S::add(e, S::splat(T{2})));
  return S::where_less(x, S::zero(), S::sub(S::zero(), magnitude), magnitude);
}

// log2 x for a normal x > 0: x = 2^n f with f from sqrt(1/2) to sqrt(2), log f = 2 artanh((f - 1) / (f + 1)). Loops of it are vectorised.
template <class T>
[[gnu::always_inline]] inline T logarithm2(T x) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52, kTerms = sizeof(T) == 4 ? 5 : 11;  // s^2 < 0.0295
  constexpr Bits kRootHalf = std::bit_cast<Bits>(static_cast<T>(0.70710678118654752));
  const Bits bits = std::bit_cast<Bits>(x);
  const Bits n = (bits - kRootHalf) >> kMantissa;
  const T f = std::bit_cast<T>(bits - (n << kMantissa));
  const T s = (f - 1) / (f + 1), s2 = s * s;
  T sum = 0;
  for (int i = kTerms - 1; i >= 0; --i) sum = sum * s2 + T{1} / static_cast<T>(2 * i + 1);
  return static_cast<T>(n) + static_cast<T>(2 * 1.4426950408889634) * s * sum;
}

}  // namespace
}  // namespace window_matmul::cpu
