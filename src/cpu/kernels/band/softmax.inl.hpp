// src/cpu/kernels/band/softmax.inl.hpp: softmax over the slots of a row whose key exists, and its backward. Zeros elsewhere.
#pragma once

#include "cpu/kernels/copy.inl.hpp"
#include "cpu/kernels/exp.inl.hpp"

namespace window_matmul::cpu {
namespace {

// Calls f(row, slots) for each row, after zeros went to the slots without a key.
template <class E, class F>
void for_each_band_row(const Block& block, F&& f) {
  const Matrix2<E> out{block.out};
  for (index_t row = block.rows.begin; row < block.rows.end; ++row) {
    const Range slots = block.band.slots(row);
    fill_row(narrow<E>(0.0f), out.at(row, 0), out.col_stride, {0, slots.begin});
    fill_row(narrow<E>(0.0f), out.at(row, 0), out.col_stride, {slots.end, block.band.width()});
    if (!slots.empty()) f(row, slots);
  }
}

// A row of scratch, padded with `rest` to whole vectors.
template <Simd S, class E>
void read_padded(const Matrix2<const E>& m, index_t row, Range slots, typename S::Scalar rest, typename S::Scalar* to) {
  const index_t count = slots.size();
  S::store(to + count, S::splat(rest));
  read_row<S>(m.at(row, slots.begin), m.col_stride, count, to);
}

template <Simd S>
typename S::Scalar highest_of(const typename S::Scalar* x, index_t count) {
  typename S::Vec highest = S::load(x);
  for (index_t i = 0; i < count; i += S::kLanes) highest = S::max(highest, S::load(x + i));
  return S::highest(highest);
}

template <Simd S, class E>
void softmax(const Block& block) {
  using T = typename S::Scalar;
  const Matrix2<const E> x{block.x};
  const Matrix2<E> out{block.out};
  T* const line = static_cast<T*>(block.scratch);
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  for_each_band_row<E>(block, [&](index_t row, Range slots) {
    read_padded<S>(x, row, slots, kLowest, line);
    // A NaN in the row makes every result NaN, whatever `highest` becomes. A row of -inf sees nothing.
    const T highest = highest_of<S>(line, slots.size());
    const typename S::Vec offset = S::splat(highest == kLowest ? T{0} : highest);
    typename S::Vec total = S::zero();
    for (index_t i = 0; i < slots.size(); i += S::kLanes) {
      const typename S::Vec e = exp_nonpositive<S>(S::sub(S::load(line + i), offset));
      S::store(line + i, e);
      total = S::add(total, e);
    }
    const T sum = S::sum(total);
    const typename S::Vec scale = S::splat(sum == 0 ? T{0} : T{1} / sum);
    for (index_t i = 0; i < slots.size(); i += S::kLanes) S::store(line + i, S::mul(S::load(line + i), scale));
    write_row<S>(line, slots.size(), out.at(row, slots.begin), out.col_stride);
  });
}

// x is the gradient g, y the probabilities p: out = p * (g - sum(p g)).
template <Simd S, class E>
void softmax_backward(const Block& block) {
  using T = typename S::Scalar;
  const Matrix2<const E> x{block.x}, y{block.y};
  const Matrix2<E> out{block.out};
  T* const g = static_cast<T*>(block.scratch);
  T* const p = g + round_up(block.band.width(), kMaxLanes) + kMaxLanes;
  for_each_band_row<E>(block, [&](index_t row, Range slots) {
    read_padded<S>(x, row, slots, T{0}, g);
    read_padded<S>(y, row, slots, T{0}, p);
    typename S::Vec total = S::zero();
    for (index_t i = 0; i < slots.size(); i += S::kLanes) total = S::fma(S::load(g + i), S::load(p + i), total);
    const typename S::Vec mean = S::splat(S::sum(total));
    for (index_t i = 0; i < slots.size(); i += S::kLanes) S::store(g + i, S::mul(S::load(p + i), S::sub(S::load(g + i), mean)));
    write_row<S>(g, slots.size(), out.at(row, slots.begin), out.col_stride);
  });
}

}  // namespace
}  // namespace window_matmul::cpu
