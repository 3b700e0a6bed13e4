// src/cpu/kernels/attention/softmax.inl.hpp: the softmax of scores that come chunk by chunk, with a running maximum.
//
//   m' = max(m, scores)    P = 2^(scores - m')    l = l 2^(m - m') + sum P      the factor 2^(m - m') is for whatever else was summed up
//
// Scores in natural units: with their differences in units of log 2.
#pragma once

#include "cpu/kernels/attention/scores.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class AnyScores>
struct OnlineSoftmax {
  using T = typename S::Scalar;
  static constexpr index_t kQueries = AnyScores::kQueries, kLanes = S::kLanes;

  const AnyScores& scores;
  T *const highest, *const total, *const factor;  // m, l and the factor of each query

  void start() const {
    fill_row(kMinusInfinity<T>, highest, 1, {0, kQueries});
    fill_row(T{0}, total, 1, {0, kQueries});
  }

  // The scores of a chunk become weights; zero where nothing was computed.
  void exponentiate() const {
    for (index_t v = 0; v < AnyScores::kColumns; ++v) exponentiate(v);
    scores.clear_unseen(scores.tile);
  }

  void exponentiate(index_t v) const {
    const Range keys = scores.seen[v];
    T* const column = scores.at(0, v);
    if (keys.empty()) return S::store(factor + v * kLanes, S::splat(T{1}));
    const auto before = S::load(highest + v * kLanes);
    const auto after = highest_of_column(column, keys, before);
    S::store(highest + v * kLanes, after);
    const auto offset = finite_offset<S>(after);
    const auto rescale = scores.natural ? power<true>(S::sub(before, offset)) : power<false>(S::sub(before, offset));
    S::store(factor + v * kLanes, rescale);
    const auto sum = scores.natural ? sum_of_powers<true>(column, keys, offset) : sum_of_powers<false>(column, keys, offset);
    S::store(total + v * kLanes, S::fma(S::load(total + v * kLanes), rescale, sum));
  }

  static typename S::Vec highest_of_column(const T* column, Range keys, typename S::Vec start) {
    typename S::Vec chains[4] = {start, start, start, start};  // independent: a maximum takes several cycles
    index_t c = keys.begin;
    for (; c + 4 <= keys.end; c += 4)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) chains[i] = S::max(chains[i], S::load(column + (c + i) * kQueries));
    for (; c < keys.end; ++c) chains[0] = S::max(chains[0], S::load(column + c * kQueries));
    return S::max(S::max(chains[0], chains[1]), S::max(chains[2], chains[3]));
  }

  template <bool Natural>
  [[gnu::always_inline]] static typename S::Vec power(typename S::Vec difference) {
    return exp2_nonpositive<S>(Natural ? S::mul(difference, S::splat(kLog2E<T>)) : difference);
  }

  template <bool Natural>
  static typename S::Vec sum_of_powers(T* column, Range keys, typename S::Vec offset) {
    typename S::Vec sums_of_two[2] = {S::zero(), S::zero()};
    const auto step = [&](index_t c, int i) {
      const auto weight = power<Natural>(S::sub(S::load(column + c * kQueries), offset));
      S::store(column + c * kQueries, weight);
      sums_of_two[i] = S::add(sums_of_two[i], weight);
    };
    index_t c = keys.begin;
    for (; c + 2 <= keys.end; c += 2) step(c, 0), step(c + 1, 1);
    if (c < keys.end) step(c, 0);
    return S::add(sums_of_two[0], sums_of_two[1]);
  }
};

}  // namespace
}  // namespace window_matmul::cpu
