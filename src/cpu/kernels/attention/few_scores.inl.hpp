// src/cpu/kernels/attention/few_scores.inl.hpp: the scores of a few rows with a chunk of keys.
//
// A square of sums, kRows rows and as many keys as fill it: sums[key, row] += k(key, n ..) * q(row, n ..). Lanes are the head dim; the
// square is transposed and added up: one vector, whose lanes are the scores, key by key.
#pragma once

#include "cpu/kernels/attention/scores.inl.hpp"
#include "philox.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct FewScores {
  using T = typename S::Scalar;
  using Vec = typename S::Vec;
  static constexpr index_t kLanes = S::kLanes, kRows = kRowsAtOnce, kSquares = kFewRows / kRows;
  // A stripe: the scores of all rows of a square with as many keys as fill a vector, or with one key in several vectors.
  static constexpr index_t kStripe = larger(kLanes, kRows), kKeys = kStripe / kRows, kVecs = kStripe / kLanes;
  static constexpr index_t kTile = (kFewChunk + kMaxLanes) * kRows;  // scores of a square, with room for what whole vectors reach
  static_assert(kStripe % kRows == 0 && kStripe % kLanes == 0 && kStripe <= kMaxLanes);
  static constexpr bool kPairs = kInPairs<S, E>;

  const AttentionBlock& block;
  const index_t num_rows = block.rows.size(), squares = ceil_div(num_rows, kRows);
  const index_t q_stride = padded(block.dim);
  // Scratch: queries [kFewRows][padded D], in pairs also as they are, scores [kSquares][kTile], packed rows of k, and what few.inl.hpp has
  // behind them.
  T* const queries = static_cast<T*>(block.scratch);
  bf16* const queries_as_they_are = reinterpret_cast<bf16*>(queries + kFewRows * q_stride);
  T* const tile = queries + (kPairs ? kFewRows + kFewRows / 2 : kFewRows) * q_stride;
  T* const packed_k = tile + kSquares * kTile;
  const Gather<S, E> gather{block.walk};
  bool natural = block.options.is_natural;  // the units

  index_t query(index_t r) const { return (block.rows.begin + r) / block.few.heads; }
  index_t position(index_t r) const { return block.walk.query(query(r)); }
  T& score(index_t r, index_t c) const { return tile[r / kRows * kTile + c * kRows + r % kRows]; }
  // Where a number of the row is, in [kSquares][kStripe].
  static index_t at(index_t r) { return r / kRows * kStripe + r % kRows; }

  T unit_of_products() const {
    const double to_unit = block.options.softcap > 0 ? 1 / block.options.softcap : natural ? 1 : kLog2E<double>;
    return static_cast<T>(block.options.scale * to_unit);
  }

  void take_queries() const {
    if (block.options.is_wide) return;  // they are read where they lie
    const T by = unit_of_products();
    fill_row(T{0}, queries, 1, {0, squares * kRows * q_stride});
    for (index_t r = 0; r < num_rows; ++r) {
      T* const row = queries + r * q_stride;
      gather.row(block.heads[r].q, position(r), block.dim, row);
      for (index_t n = 0; n < q_stride; ++n) row[n] *= by;
    }
    if constexpr (kPairs) {
      fill_row(bf16{}, queries_as_they_are, 1, {0, squares * kRows * q_stride});
      for (index_t r = 0; r < num_rows; ++r) {
        const Matrix2<const bf16> q(block.heads[r].q);
        copy_row(q.at(position(r), 0), q.col_stride, block.dim, queries_as_they_are + r * q_stride, block.dim);
      }
    }
  }

  // Keys of the walk, then listed ones outside of the window.
  template <class F>
  [[gnu::always_inline]] void for_each_chunk_of_keys(F&& f) const {
    const Range keys = block.walk.band.keys_any({query(0), query(num_rows - 1) + 1}).intersect(block.few.keys);
    const index_t chunks = ceil_div(keys.size(), kFewChunk), even = round_up(ceil_div(keys.size(), larger(chunks, 1)), kMaxLanes);
    for (index_t key = keys.begin; key < keys.end; key += even) f(Chunk{{key, smaller(key + even, keys.end)}});
    for (index_t key = 0; key < block.num_global_keys; key += kFewChunk)
      f(Chunk{{0, smaller(block.num_global_keys - key, kFewChunk)}, block.global_keys + key});
  }

  // Calls f with the rows of a chunk. They are read once or twice: halves are not widened beforehand.
  template <class F>
  [[gnu::always_inline]] void with_rows_of(const Operand& from, const Chunk& chunk, index_t columns, T* packed, F&& f) const {
    gather.is_whole(from, chunk, columns) ? f(gather.stored(from, chunk)) : f(gather.keys(from, chunk, columns, true, packed));
  }

  // ---- scores -----------------------------------------------------------------------------------------------------------------------

  // Rows that are read later are asked for line by line between the multiply-adds: memory is not to rest while this computes, and a burst
  // would hold up what is read now. While k is multiplied these are the rows of v, which are read in panels, an order that the hardware
  // does not foresee; while v is weighed, the next rows of k.
  Later rows_from(const Operand& of, index_t key) const {
    if (of.col_stride != 1) return {};
    const Matrix2<const E> m(of);
    return {reinterpret_cast<std::uintptr_t>(m.at(block.walk.key(key), 0)),
            static_cast<std::uintptr_t>(m.row_stride * block.walk.step) * sizeof(E), sizeof(E)};
  }
  Later next_keys(const Chunk& chunk) const {
    const bool any = chunk.list == nullptr && chunk.keys.end < block.walk.band.cols;
    return any ? rows_from(block.k, chunk.keys.end) : Later{};
  }

  template <class K>
  void multiply(index_t square, const Chunk& chunk, const KeyRows<K>& k) const {
    if (block.dim == 0) return fill_row(T{0}, tile + square * kTile, 1, {0, chunk.size() * kRows});
    const index_t first = square * kRows * q_stride;
    if constexpr (kInPairs<S, K>)
      if (block.dim % (2 * kLanes) == 0) return multiply(square, chunk, k, queries_as_they_are + first);
    multiply(square, chunk, k, queries + first);
  }

  template <class K, class Q>
  void multiply(index_t square, const Chunk& chunk, const KeyRows<K>& k, const Q* q) const {
    const index_t keys = chunk.size();
    T* const to = tile + square * kTile;
    for (index_t c = 0; c < keys;) {
      if (keys >= kKeys && c + kKeys > keys) c = keys - kKeys;  // the last square overlaps its neighbour
      const index_t done = keys >= kKeys ? kKeys : 1;
      const Later values = square == 0 && chunk.list == nullptr ? rows_from(block.v, chunk.keys.begin + c) : Later{};
      done == 1 ? products<1>(q, k.row(c), k.row_stride, to + c * kRows, values)
                : products<kKeys>(q, k.row(c), k.row_stride, to + c * kRows, values);
      c += done;
    }
    *block.multiply_adds += kRows * keys * block.dim;
  }

  // A stripe of scores; those behind `Keys` are zero. The head dim is positive. Queries of bf16 are multiplied in pairs.
  template <index_t Keys, class K, class Q>
  [[gnu::noinline]] void products(const Q* q, const K* k, index_t k_stride, T* to, const Later& values) const {
    constexpr bool pairs = kInPairs<S, Q>;
    const auto load = [](const auto* p) {
      if constexpr (pairs)
        return S::load(reinterpret_cast<const Pair*>(p));
      else
        return S::load(p);
    };
    Vec square[kStripe];
#pragma GCC unroll 16
    for (index_t i = 0; i < kStripe; ++i) square[i] = S::zero();
    index_t n = 0;
    do {  // at least once: else GCC holds the zeros in memory
      if (values.row != 0)
#pragma GCC unroll 4
        for (index_t i = 0; i < Keys; ++i) values.at(i, n).template ask<1>();
      Vec key[Keys];
#pragma GCC unroll 4
      for (index_t i = 0; i < Keys; ++i) key[i] = load(k + i * k_stride + n);
#pragma GCC unroll 4
      for (index_t r = 0; r < kRows; ++r) {
        const auto row = S::in_register(load(q + r * q_stride + n));  // else GCC loads it again for each key
#pragma GCC unroll 4
        for (index_t i = 0; i < Keys; ++i) square[i * kRows + r] = multiply_add<S, Q>(key[i], row, square[i * kRows + r]);
      }
      n += pairs ? 2 * kLanes : kLanes;
    } while (n < block.dim);
    if constexpr (pairs)
      S::store(to, S::mul(S::sums(square), S::splat(unit_of_products())));
    else if constexpr (kVecs > 1)
      for (index_t i = 0; i < kStripe; ++i) to[i] = S::sum(square[i]);
    else
      S::store(to, S::sums(square));
  }

  template <class K>
  [[gnu::noinline]] void multiply_widely(const Chunk& chunk, const KeyRows<K>& k) const {
    for (index_t r = 0; r < num_rows; ++r) {
      const Matrix2<const E> q(block.heads[r].q);
      for (index_t c = 0; c < chunk.size(); ++c) {
        Wide<T> sum = 0;
        for (index_t n = 0; n < block.dim; ++n)
          sum += static_cast<Wide<T>>(widen(*q.at(position(r), n))) * static_cast<Wide<T>>(widen(k.row(c)[n]));
        score(r, c) = score_of_product<T>(block.options, sum, natural, nullptr);
      }
    }
    *block.multiply_adds += num_rows * chunk.size() * block.dim;
  }

  // ---- options ----------------------------------------------------------------------------------------------------------------------

  void apply_options(const Chunk& chunk) const {
    for (index_t r = 0; r < num_rows; ++r) {
      if (chunk.list != nullptr)
        hide_in_window(r, chunk);
      else
        hide_outside_band(r, chunk.keys);
    }
    for (index_t c = 0; block.options.has_key_mask && c < chunk.size(); ++c)
      if (!block.options.key_mask.contains(gather.position(chunk, c)))
        for (index_t r = 0; r < num_rows; ++r) score(r, c) = kMinusInfinity<T>;
  }

  void cap(index_t keys) const {
    const auto of_cap = S::splat(static_cast<T>(block.options.softcap) * in_units<T>(natural));
    for (index_t square = 0; square < squares; ++square)
      for (T *x = tile + square * kTile, *end = x + keys * kRows; x < end; x += kLanes)
        S::store(x, S::mul(hyperbolic_tangent<S>(S::load(x)), of_cap));
  }

  void hide_outside_band(index_t r, Range keys) const {
    const Range seen = block.walk.band.keys(query(r)).intersect(keys);
    if (block.options.has_bias && !seen.empty()) block.options.bias_is_f32 ? add_bias<float>(r, keys, seen) : add_bias<E>(r, keys, seen);
    for (index_t key = keys.begin; key < keys.end && seen.size() < keys.size(); ++key)
      if (!seen.contains(key)) score(r, key - keys.begin) = kMinusInfinity<T>;
  }

  template <class B>
  void add_bias(index_t r, Range keys, Range seen) const {
    const Matrix2<const B> bias(block.heads[r].bias);
    for (index_t key = seen.begin; key < seen.end; ++key) {
      const T b = static_cast<T>(widen(*bias.at(position(r), block.walk.band.slot(query(r), key))));
      T& of = score(r, key - keys.begin);
      of = b == kMinusInfinity<T> ? b : of + within_range(b * in_units<T>(natural), b);  // -inf hides even a NaN
    }
  }

  void hide_in_window(index_t r, const Chunk& chunk) const {
    for (index_t c = 0; c < chunk.size(); ++c)
      if (!block.window.sees_global(position(r), chunk.list[c])) score(r, c) = kMinusInfinity<T>;
  }
};

}  // namespace
}  // namespace window_matmul::cpu
