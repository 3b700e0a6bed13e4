// src/cpu/kernels/attention/wide.inl.hpp: scores at the ends of the sums' range: natural units, wider products.
//
// In units of log 2 a score takes 1.44 times its size, and with the queries go scale and units: what is finite may leave the range on the
// way. So a block whose maxima are near the ends is computed again, in natural units; and where operands are, their products in a wider
// type.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/attention/block.hpp"
#include "cpu/kernels/exp.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <class T>
using Wide = std::conditional_t<sizeof(T) == 4, double, long double>;  // no product of three operands leaves it

// Maxima from here on are not trusted in units of log 2.
template <class T>
inline constexpr T kFar = std::numeric_limits<T>::max() / 4;
// Operands and products from here on may add up to what is not finite.
template <class T>
inline constexpr Wide<T> kLargeOperand = sizeof(T) == 4 ? static_cast<Wide<T>>(0x1p100) : static_cast<Wide<T>>(0x1p996);

template <class T>
[[gnu::always_inline]] inline T in_units(bool natural) {  // what a natural score is multiplied with
  return natural ? T{1} : kLog2E<T>;
}
template <class T>
[[gnu::always_inline]] inline T in_natural(bool natural) {  // and back
  return natural ? T{1} : static_cast<T>(0.6931471805599453);
}

// Not multiplied here, where the compiler would take product and difference as one: it is to be rounded as a bias of its size is.
template <class T>
[[gnu::always_inline]] inline T sink_in_units(const AttentionHead& head, bool natural) {
  return static_cast<T>(natural ? head.sink : head.sink_in_log2);
}

// Whether the maxima of all rows, and sums of weights, are those of scores in the middle of the range.
template <Simd S>
bool are_near(const typename S::Scalar* highest, const typename S::Scalar* total, index_t rows) {  // whole vectors are read
  using T = typename S::Scalar;
  const auto far = S::splat(kFar<T>), one = S::splat(T{1});
  auto probe = S::zero();
  for (index_t r = 0; r < rows; r += S::kLanes) {
    const auto h = S::load(highest + r);
    const auto outside = S::where_less(S::max(S::sub(S::zero(), h), h), far, S::zero(), one);
    probe = S::add(probe, S::fma(S::load(total + r), S::zero(), outside));
  }
  for (index_t r = 0; r < rows && !S::all_zero(probe); ++r)  // there may be lanes behind the last row
    if (!(highest[r] > -kFar<T> && highest[r] < kFar<T> && total[r] == total[r])) return false;
  return true;
}

// The largest magnitude of some rows, infinite where an element is not finite.
template <Simd S>
struct Largest {
  using T = typename S::Scalar;
  typename S::Vec most = S::zero(), least = S::zero(), probe = S::zero();

  template <class A>
  [[gnu::always_inline]] void add(const A* x, index_t count) {  // whole vectors are read
    for (index_t i = 0; i < count; i += S::kLanes) {
      const auto v = S::load(x + i);
      most = S::max(most, v), least = S::min(least, v), probe = S::fma(v, S::zero(), probe);
    }
  }
  T value() const { return S::all_zero(probe) ? S::highest(S::max(most, S::sub(S::zero(), least))) : std::numeric_limits<T>::infinity(); }
};

// Whether sums of products of finite operands up to these sizes may leave the range.
template <class T>
bool are_large(index_t dim, T query, T key) {
  constexpr T most = std::numeric_limits<T>::max();
  return query <= most && key <= most && static_cast<Wide<T>>(query) * static_cast<Wide<T>>(key) * static_cast<Wide<T>>(dim) >= most / 64;
}

// Whether products of finite operands up to these sizes need the wider type.
template <class T>
bool needs_wide(const AttentionOptionsOfBlock& options, index_t dim, T query, T key) {
  if (options.is_wide) return true;
  if (!(query <= std::numeric_limits<T>::max() && key <= std::numeric_limits<T>::max())) return false;
  const double factor = (options.scale < 0 ? -options.scale : options.scale) * (options.softcap > 0 ? 1 / options.softcap : 2);
  const Wide<T> q = static_cast<Wide<T>>(query) * static_cast<Wide<T>>(factor), k = key;
  return q >= kLargeOperand<T> || k >= kLargeOperand<T> || q * k * static_cast<Wide<T>>(dim) >= kLargeOperand<T>;
}

// Whether rows that are not fine are worth another go, and which these are: not for operands that are not finite, and not for rows that see
// nothing, unless their scores may have been what was not finite.
template <class T>
bool is_worth_while(T query, T key, bool wide, const T* highest, const T* total, index_t rows, bool* which) {
  constexpr T most = std::numeric_limits<T>::max();
  const bool finite = query <= most && key <= most;
  bool any = false;
  for (index_t r = 0; r < rows; ++r) {
    const T h = highest[r], size = h < 0 ? -h : h;
    const bool nothing = h == kMinusInfinity<T> && total[r] == 0, is_fine = size < kFar<T> && total[r] == total[r];
    which[r] = nothing ? wide : !is_fine && (finite || (size >= kFar<T> && size <= most));
    any = any || which[r];
  }
  return any;
}

// The score of a product, in units; and the slope of its cap, where that is asked for.
template <class T>
T score_of_product(const AttentionOptionsOfBlock& options, Wide<T> product, bool natural, T* slope) {
  Wide<T> score = product * static_cast<Wide<T>>(options.scale);
  if (options.softcap > 0) {
    const Wide<T> cap = static_cast<Wide<T>>(options.softcap);
    Wide<T> t;
    if constexpr (sizeof(T) == 4)
      t = __builtin_tanh(score / cap);
    else
      t = __builtin_tanhl(score / cap);
    score = cap * t;
    if (slope != nullptr) *slope = static_cast<T>(1 - t * t);
  }
  return static_cast<T>(score) * in_units<T>(natural);
}

}  // namespace
}  // namespace window_matmul::cpu
