// src/cpu/kernels/attention/bias.inl.hpp: the bias of a tile of scores, and its gradient, by whole vectors.
//
// A row of the tile is a key, a lane a query; slots run downwards along a row. The slots of key c are those of the last key, seen by
// queries that come last - c later: a line of numbers in which each key begins one further on than the next. So
//
//   bias of a slot    the line is filled once a tile        d_bias   sums along diagonals of the tile, into a line
//   bias of a pair    a matrix (query, key), transposed square by square; d_bias likewise
#pragma once

#include "cpu/attention/block.hpp"
#include "cpu/kernels/attention/wide.inl.hpp"
#include "cpu/kernels/copy.inl.hpp"

namespace window_matmul::cpu {
namespace {

// Whether whole vectors can be read from and written to elements of this type: not f32 beside f64.
template <Simd S, class B>
inline constexpr bool kHasVectorsOf = sizeof(typename S::Scalar) == sizeof(float) || std::is_same_v<B, typename S::Scalar>;

template <Simd S, class E, class AnyScores>
struct BiasOfTile {
  using T = typename S::Scalar;
  static constexpr index_t kLanes = S::kLanes, kQueries = AnyScores::kQueries, kLine = AnyScores::kChunk + kQueries;
  static_assert(kLine % kLanes == 0);

  const AnyScores& scores;
  const AttentionBlock& block = scores.block;
  const AttentionGeometry& walk = block.walk;
  const AttentionHead& head = *scores.head;
  const Range rows = scores.rows, keys = scores.chunk.keys;
  const T unit = in_units<T>(scores.natural);

  void add() const { block.options.bias_is_f32 ? add_of_type<float>() : add_of_type<E>(); }

  // d_s is a tile like the scores, zero where nothing is seen.
  void add_gradient(T* d_s) const { block.options.bias_is_f32 ? add_gradient_of_type<float>(d_s) : add_gradient_of_type<E>(d_s); }

 private:
  template <class B>
  void add_of_type() const {
    const Matrix2<const B> bias(head.bias);
    if (walk.query_list != nullptr)
      for_each_listed([&](index_t c, index_t r, index_t position, index_t slot) {
        T& score = *(scores.at(c, 0) + r);
        const T b = widen_to_sums(*bias.at(position, slot));
        score = b == kMinusInfinity<T> ? b : score + within_range(b * unit, b);
      });
    else if (bias.row_stride == 0)
      add_line(bias);
    else
      add_squares(bias);
  }

  template <class B>
  void add_gradient_of_type(T* d_s) const {
    const Matrix2<B> d_bias(head.d_bias);
    T* const sums = static_cast<T*>(head.d_bias_sums);
    if (walk.query_list != nullptr)
      for_each_listed([&](index_t c, index_t r, index_t position, index_t slot) {
        const T x = d_s[c * kQueries + r];
        if (sums != nullptr)
          sums[slot] += x;
        else
          *d_bias.at(position, slot) = narrow_to<B>(x);
      });
    else if (sums != nullptr)
      add_diagonals(d_s, sums);
    else
      write_squares(d_s, d_bias);
  }

  template <class B>
  static T widen_to_sums(B x) {
    return static_cast<T>(widen(x));
  }
  template <class B>
  static B narrow_to(T x) {
    return narrow<B>(static_cast<decltype(widen(B{}))>(x));
  }

  // Of listed queries: calls f(key of the chunk, row of the tile, position of the query, slot) for the pairs that lie in the window.
  template <class F>
  void for_each_listed(F&& f) const {
    for (index_t row = rows.begin; row < rows.end; ++row)
      for (index_t key = keys.begin; key < keys.end; ++key) {
        const index_t position = walk.query(row), slot = block.window.slot(position, walk.key(key));
        if (slot >= 0) f(key - keys.begin, row - rows.begin, position, slot);
      }
  }

  // As within_range() has it. -inf hides even a NaN.
  void add_to(T* score, typename S::Vec bias) const {
    const auto lowest = S::splat(std::numeric_limits<T>::lowest());
    const auto sum = S::add(S::load(score), S::max(lowest, S::mul(bias, S::splat(unit))));
    S::store(score, S::where_less(bias, lowest, bias, sum));
  }

  // ---- a number a slot --------------------------------------------------------------------------------------------------------------

  // Calls f(x, slot) for the numbers of the line that are a slot; key c and lane r meet at x = size - 1 - c + r.
  template <class F>
  void for_each_slot_of_line(F&& f) const {
    const Range slots{0, walk.band.width()};
    for (index_t x = 0; x < keys.size() - 1 + rows.size(); ++x) {
      const index_t slot = walk.band.slot(rows.begin + x, keys.end - 1);
      if (slots.contains(slot)) f(x, slot);
    }
  }

  template <class B>
  void add_line(const Matrix2<const B>& bias) const {
    T line[kLine] = {};
    for_each_slot_of_line([&](index_t x, index_t slot) { line[x] = widen_to_sums(*bias.at(0, slot)); });
    const T* const last = line + keys.size() - 1;
    scores.for_each_seen([&](index_t c, index_t v) { add_to(scores.at(c, v), S::load(last - c + v * kLanes)); });
  }

  // Keys at a distance of kLanes have their vectors on the same diagonals, one vector apart: these are summed in registers.
  void add_diagonals(T* d_s, T* sums) const {
    const index_t size = keys.size();
    for (index_t c = 0; c < size && rows.size() < kQueries; ++c) fill_row(T{0}, d_s + c * kQueries, 1, {rows.size(), kQueries});
    T line[kLine] = {};
    for (index_t first = 0; first < smaller(kLanes, size); ++first)
      for (index_t v = -((size - 1 - first) / kLanes); v < AnyScores::kColumns; ++v) {
        T* const to = line + size - 1 - first + v * kLanes;
        S::store(to, S::add(S::load(to), sum_of_diagonals(d_s, first, v)));
      }
    for_each_slot_of_line([&](index_t x, index_t slot) { sums[slot] += line[x]; });
  }

  // Of vector v of key `first`, v + 1 of key first + kLanes and so on, as far as they exist.
  typename S::Vec sum_of_diagonals(const T* d_s, index_t first, index_t v) const {
    auto sum = S::zero();
    const index_t skipped = larger(-v, 0);
    first += skipped * kLanes, v += skipped;
    for (; first < keys.size() && v < AnyScores::kColumns; first += kLanes, ++v)
      sum = S::add(sum, S::load(d_s + first * kQueries + v * kLanes));
    return sum;
  }

  // ---- a number a pair --------------------------------------------------------------------------------------------------------------

  // Calls f(c, v, whole) for squares of kLanes keys and a vector of queries; whole: all of its pairs are in the window and this item's.
  template <class F>
  void for_each_square(bool may_be_whole, F&& f) const {
    for (index_t v = 0; v < AnyScores::kColumns; ++v) {
      const Range some = scores.rows_of(v), seen = scores.seen[v];
      const Range all = some.size() == kLanes && may_be_whole ? walk.band.keys_all(some) : Range{};
      for (index_t c = seen.begin; c < seen.end; c += kLanes)
        f(c, v, c + kLanes <= seen.end && all.contains(Range{keys.begin + c, keys.begin + c + kLanes}));
    }
  }

  // Keys of the square that this row of the tile sees.
  Range keys_of(index_t row, index_t c) const {
    if (row >= rows.end) return {};
    return walk.band.keys(row).intersect(Range{keys.begin + c, keys.begin + c + kLanes}.intersect(keys));
  }

  // Key c of the chunk in this row: the next row of the walk is a fixed number of elements further on.
  template <class B>
  B* at(const Matrix2<B>& m, index_t row, index_t c) const {
    return m.at(walk.query(row), walk.band.slot(row, keys.begin + c));
  }

  template <class B>
  void add_squares(const Matrix2<const B>& bias) const {
    for_each_square(kHasVectorsOf<S, B> && bias.col_stride == 1, [&](index_t c, index_t v, bool whole) {
      typename S::Vec square[kLanes];
      whole ? read_square(bias, c, rows.begin + v * kLanes, square) : read_edge(bias, c, rows.begin + v * kLanes, square);
      S::transpose(square);
      T* const to = scores.at(c, v);
      const index_t count = whole ? kLanes : smaller(kLanes, scores.seen[v].end - c);
      for (index_t i = 0; i < count; ++i) add_to(to + i * kQueries, square[i]);
    });
  }

  template <class B>
  [[gnu::always_inline]] void read_square(const Matrix2<const B>& bias, index_t c, index_t row, typename S::Vec (&square)[kLanes]) const {
    if constexpr (kHasVectorsOf<S, B>) {
      const B* const from = at(bias, row, c);
      const index_t step = at(bias, row + 1, c) - from;
#pragma GCC unroll 16
      for (index_t r = 0; r < kLanes; ++r) {
        __builtin_prefetch(from + r * step + AnyScores::kChunk, 0, 2);  // of the next chunk: more streams than the hardware follows
        square[r] = S::load(from + r * step);
      }
    }
  }

  template <class B>
  void read_edge(const Matrix2<const B>& bias, index_t c, index_t row, typename S::Vec (&square)[kLanes]) const {
    for (index_t r = 0; r < kLanes; ++r) {
      T line[kLanes] = {};
      const Range of = keys_of(row + r, c);
      for (index_t key = of.begin; key < of.end; ++key) line[key - keys.begin - c] = widen_to_sums(*at(bias, row + r, key - keys.begin));
      square[r] = S::load(line);
    }
  }

  template <class B>
  void write_squares(const T* d_s, const Matrix2<B>& d_bias) const {
    for_each_square(kHasVectorsOf<S, B> && d_bias.col_stride == 1 && !block.skips_global_queries, [&](index_t c, index_t v, bool whole) {
      const T* const from = d_s + c * kQueries + v * kLanes;
      const index_t count = whole ? kLanes : smaller(kLanes, scores.seen[v].end - c);
      typename S::Vec square[kLanes];
#pragma GCC unroll 16
      for (index_t i = 0; i < kLanes; ++i) square[i] = i < count ? S::load(from + i * kQueries) : S::zero();
      S::transpose(square);
      whole ? write_square(square, d_bias, c, rows.begin + v * kLanes) : write_edge(square, d_bias, c, rows.begin + v * kLanes);
    });
  }

  template <class B>
  [[gnu::always_inline]] void write_square(typename S::Vec (&square)[kLanes], const Matrix2<B>& d_bias, index_t c, index_t row) const {
    if constexpr (kHasVectorsOf<S, B>) {
      B* const to = at(d_bias, row, c);
      const index_t step = at(d_bias, row + 1, c) - to;
#pragma GCC unroll 16
      for (index_t r = 0; r < kLanes; ++r) S::store(to + r * step, square[r]);
    }
  }

  template <class B>
  void write_edge(typename S::Vec (&square)[kLanes], const Matrix2<B>& d_bias, index_t c, index_t row) const {
    for (index_t r = 0; r < kLanes; ++r) {
      const Range of = keys_of(row + r, c);
      if (of.empty() || (block.skips_global_queries && block.global_tokens.contains(walk.query(row + r)))) continue;
      T line[kLanes];
      S::store(line, square[r]);
      for (index_t key = of.begin; key < of.end; ++key) *at(d_bias, row + r, key - keys.begin) = narrow_to<B>(line[key - keys.begin - c]);
    }
  }
};

}  // namespace
}  // namespace window_matmul::cpu
