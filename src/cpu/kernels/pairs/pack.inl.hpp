// src/cpu/kernels/pairs/pack.inl.hpp: rows of bf16 as tiles take them: in place, or copied, paired and transposed.
#pragma once

#include "cpu/kernels/attention/scores.inl.hpp"
#include "cpu/kernels/pairs/tiles.inl.hpp"

namespace window_matmul::cpu {
namespace {

WINDOW_MATMUL_INLINE bool is_finite(bf16 x) { return (x.bits & 0x7f80u) != 0x7f80u; }
// Rows of the keys of a chunk, as many as a tile has at least.
template <Simd S>
PairRows rows_of_keys(const Gather<S, bf16>& gather, const Operand& from, const Chunk& chunk, index_t columns, bf16* packed) {
  const bool in_place = chunk.list == nullptr && from.col_stride == 1 && columns % kStep == 0 && chunk.size() >= kTile;
  if (in_place) return gather.stored(from, chunk);
  return copy_rows(from, chunk.size(), round_up(chunk.size(), kTile), columns, packed,
                   [&](index_t c) { return gather.position(chunk, c); });
}

// Rows of a block of queries: `rows` of them, the last ones zeros.
template <Simd S>
PairRows rows_of_queries(const Gather<S, bf16>& gather, const Operand& from, Range rows, index_t count, index_t columns, bf16* packed) {
  const bool in_place = gather.walk.query_list == nullptr && from.col_stride == 1 && columns % kStep == 0 && rows.size() == count;
  if (in_place) return {Matrix2<const bf16>(from).at(gather.walk.query(rows.begin), 0), from.row_stride * gather.walk.step, 1};
  return copy_rows(from, rows.size(), count, columns, packed, [&](index_t r) { return gather.walk.query(rows.begin + r); });
}

// B whose columns are rows of x: to[n / 2][r] = (x(r, n), x(r, n + 1)).
template <HasPairs S>
void pair_columns(const PairRows& x, index_t rows, index_t columns, float* to, index_t ld) {
  for (index_t r = 0; r < rows; r += kTile)
    for (index_t n = 0; n < columns; n += kStep) {
      typename S::Vec square[kTile];
#pragma GCC unroll 16
      for (index_t i = 0; i < kTile; ++i) square[i] = S::load(reinterpret_cast<const float*>(x.row(r + i) + n));
      S::transpose(square);
#pragma GCC unroll 16
      for (index_t i = 0; i < kTile; ++i) S::store(to + (n / 2 + i) * ld + r, square[i]);
    }
}

// B whose rows are rows of x: to[r / 2][n] = (x(r, n), x(r + 1, n)).
template <HasPairs S>
void pair_rows(const PairRows& x, index_t rows, index_t columns, float* to, index_t ld) {
  for (index_t r = 0; r < rows; r += 2)
    for (index_t n = 0; n < columns; n += kTile) S::store(to + r / 2 * ld + n, S::load_pairs(x.row(r) + n, x.row(r + 1) + n));
}

template <Simd S>
float largest(const PairRows& x, index_t rows, index_t columns) {  // infinite where an element is not finite
  Largest<S> of;
  for (index_t r = 0; r < rows; ++r) of.add(x.row(r), padded(columns));
  return of.value();
}

// The same of `count` rows of a tensor at position(i), which are `step` rows apart, or 0 where they are listed; zeros behind them up to
// `rows`, and for what is not finite. Returns the largest.
template <HasPairs S, class F>
float pair_finite_rows(const Operand& from, index_t count, index_t rows, index_t columns, index_t step, bf16* copied, float* to,
                       F&& position) {
  const bool in_place = step > 0 && from.col_stride == 1 && columns % kTile == 0 && count == rows;
  PairRows x = in_place ? PairRows{Matrix2<const bf16>(from).at(position(0), 0), from.row_stride * step, 1}
                        : copy_rows(from, count, rows, columns, copied, position);
  const float most = largest<S>(x, rows, columns);
  if (!(most < std::numeric_limits<float>::infinity())) {
    x = copy_rows(from, count, rows, columns, copied, position);
    for (index_t i = 0; i < count * x.row_stride; ++i)
      if (!is_finite(copied[i])) copied[i] = {};
  }
  pair_rows<S>(x, rows, padded(columns), to, padded(columns));
  return most;
}

// P and gradients of scores in two bf16.
template <HasPairs S>
[[gnu::always_inline]] inline typename S::Vec low_part(typename S::Vec v) {
  return S::sub(v, S::high_part(v));
}

// A of the transposed rows: to[n][i] = x(i, n) for 32 rows, tile by tile of n.
template <HasPairs S>
void transpose_step(const PairRows& x, index_t columns, bf16* to) {
  for (index_t n = 0; n < columns; n += kTile) {
    typename S::Vec square[kTile];
#pragma GCC unroll 16
    for (index_t i = 0; i < kTile; ++i) square[i] = S::load_pairs(x.row(2 * i) + n, x.row(2 * i + 1) + n);
    S::transpose(square);
#pragma GCC unroll 16
    for (index_t i = 0; i < kTile; ++i) S::store(reinterpret_cast<float*>(to + (n + i) * kStep), square[i]);
  }
}

// Keys, 32 at a time, transposed: those of a window are kept while it moves on, so that each is read once.
//
//   steps   ... [begin ........ end) ...     step s, keys 32 s and on, lies in slot s modulo the number of slots
template <HasPairs S>
struct TransposedKeys {
  const Gather<S, bf16>& gather;
  const Operand& from;
  const index_t columns, slots;
  bf16* const line;  // [kStep][whole steps of the columns]
  bf16* const data;  // [slots][padded columns][kStep]
  Range held{};
  bool only_finite = false;  // others are taken as zeros

  index_t size_of_step() const { return padded(columns) * kStep; }
  const bf16* at(index_t step) const { return data + step % slots * size_of_step(); }
  TileOperand operand(index_t step) const { return {at(step), 2 * kStep, 2 * size_of_step(), 2 * kTile * kStep}; }

  void forget(bool finite_alone) { held = {}, only_finite = finite_alone; }

  // Steps of the walk; at most as many as there are slots.
  void hold(Range steps) {
    if (!(held.begin <= steps.begin && steps.begin <= held.end)) held = {steps.begin, steps.begin};
    for (; held.end < steps.end; ++held.end)
      pack(held.end, Chunk{{held.end * kStep, smaller((held.end + 1) * kStep, gather.walk.band.cols)}});
    held.begin = larger(held.begin, held.end - slots);
  }

  // Listed keys, in the first slots.
  void take(const Chunk& chunk) {
    held = {};
    for (index_t step = 0; step * kStep < chunk.size(); ++step)
      pack(step, Chunk{{0, smaller(kStep, chunk.size() - step * kStep)}, chunk.list + step * kStep});
  }

  void pack(index_t step, const Chunk& keys) {
    bf16* const to = data + step % slots * size_of_step();
    if (keys.list == nullptr && keys.size() == kStep && from.col_stride == 1 && columns % kTile == 0 && !only_finite)
      return transpose_step<S>(gather.stored(from, keys), columns, to);
    const PairRows rows = copy_rows(from, keys.size(), kStep, columns, line, [&](index_t c) { return gather.position(keys, c); });
    for (index_t i = 0; only_finite && i < kStep * rows.row_stride; ++i)
      if (!is_finite(line[i])) line[i] = {};
    transpose_step<S>(rows, columns, to);
  }
};

}  // namespace
}  // namespace window_matmul::cpu
