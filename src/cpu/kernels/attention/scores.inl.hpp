// src/cpu/kernels/attention/scores.inl.hpp: the scores of a block of queries with a chunk of keys.
//
// In units of log 2, -inf where a query does not see a key. Transposed: a row a key, a lane a query.
//
//            queries: vector 0   vector 1   vector 2          The phases, in this order: products (only of the vectors that some query of
//   key 0          [ I I e e ] [ e - - - ] [ - - - - ]        which sees the key), softcap, bias, what the band hides, what the masks hide.
//       1          [ I I I e ] [ e e - - ] [ - - - - ]        I  all see it      e  the band is asked      -  nobody sees it: not computed
#pragma once

#include "cpu/kernels/attention/bias.inl.hpp"
#include "cpu/kernels/attention/rows.inl.hpp"
#include "cpu/kernels/attention/tile.inl.hpp"
#include "cpu/kernels/attention/wide.inl.hpp"
#include "cpu/kernels/exp.inl.hpp"
#include "cpu/kernels/prefetch.inl.hpp"

namespace window_matmul::cpu {
namespace {

inline constexpr float kLaneIndices[kMaxLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
inline constexpr double kWideLaneIndices[kMaxLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

template <Simd S>
[[gnu::always_inline]] inline typename S::Vec lane_indices() {
  if constexpr (sizeof(typename S::Scalar) == 4)
    return S::load(kLaneIndices);
  else
    return S::load(kWideLaneIndices);
}

// A row as it is given.
template <Simd S, class E, class T = typename S::Scalar>
void add_row(const Gather<S, E>& gather, const Operand& from, index_t position, index_t columns, T* line, Largest<S>* to) {
  gather.row(from, position, columns, line);
  to->add(line, padded(columns));
}

// The keys of a chunk that the mask shows.
template <Simd S, class E, class T = typename S::Scalar>
void add_keys(const AttentionBlock& block, const Gather<S, E>& gather, const Chunk& chunk, T* line, Largest<S>* to) {
  for (index_t c = 0; c < chunk.size(); ++c) {
    const index_t position = gather.position(chunk, c);
    if (!block.options.has_key_mask || block.options.key_mask.contains(position)) add_row(gather, block.k, position, block.dim, line, to);
  }
}

template <Simd S, class E, class Shape>
struct Scores {
  using T = typename S::Scalar;
  static constexpr index_t kQueries = Shape::kQueries, kChunk = Shape::kChunk, kColumns = Shape::kColumns, kLanes = S::kLanes;

  const AttentionBlock& block;
  T* const queries;  // [D][kQueries] and a vector
  T* const tile;  // [kChunk][kQueries]
  T* const slopes;  // the same: the derivative of the softcap, or null
  Prefetcher& ahead;
  const AttentionHead* head = nullptr;
  Range rows{};
  Chunk chunk{};
  Range seen[Shape::kColumns]{};  // keys of the chunk that some query of the vector may see
  bool natural = block.options.is_natural;  // the units

  const Gather<S, E> gather{block.walk};

  // In pairs, queries are multiplied as they are, and their products with the factor.
  static constexpr bool kPairs = kInPairs<S, E>;
  using K = std::conditional_t<kPairs, bf16, T>;

  void take_queries(const AttentionHead& of, Range r, T* line) {
    head = &of, rows = r;
    if (block.options.is_wide) return;  // they are read where they lie
    if constexpr (kPairs)
      transpose_in_pairs<S>(gather, of.q, rows, block.dim, reinterpret_cast<bf16*>(line), queries, kQueries);
    else
      gather.transposed(of.q, rows, block.dim, unit(), queries, kQueries);
  }

  PairRows keys(const Operand& from, const Chunk& of, index_t columns, T* packed) const {
    return keys_in_pairs<S>(gather, from, of, columns, reinterpret_cast<bf16*>(packed));
  }

  T unit() const {  // what products are multiplied with
    const double of_scale = block.options.softcap > 0 ? 1 / block.options.softcap : natural ? 1 : kLog2E<double>;
    return static_cast<T>(block.options.scale * of_scale);
  }

  void begin(const Chunk& of) {
    chunk = of;
    for (index_t v = 0; v < Shape::kColumns; ++v) seen[v] = seen_by(rows_of(v));
  }

  void compute(const Chunk& of, const KeyRows<K>& k, bool wide) {
    begin(of);
    if (wide) {
      multiply_widely(k);
    } else {
      multiply(k, queries, block.dim, kPairs ? unit() : T{1}, tile);
      if (block.options.softcap > 0) cap();
    }
    add_bias_and_hide();
  }

  void add_bias_and_hide() const {
    if (block.options.has_bias && chunk.list == nullptr) BiasOfTile<S, E, Scores>{*this}.add();
    if (chunk.list == nullptr)
      hide_outside_band();
    else
      hide_in_window();
    if (block.options.has_key_mask) hide_masked();
  }

  Range rows_of(index_t v) const { return Range{rows.begin + v * kLanes, rows.begin + (v + 1) * kLanes}.intersect(rows); }
  T* at(index_t c, index_t v) const { return tile + c * kQueries + v * kLanes; }

  Range seen_by(Range some) const {
    if (some.empty()) return {0, 0};
    if (chunk.list != nullptr) return {0, chunk.size()};
    const Range any = block.walk.band.keys_any(some).intersect(chunk.keys);
    return any.empty() ? Range{0, 0} : Range{any.begin - chunk.keys.begin, any.end - chunk.keys.begin};
  }

  // Calls f(key of the chunk, vector of queries) for all that were computed.
  template <class F>
  [[gnu::always_inline]] void for_each_seen(F&& f) const {
    for (index_t v = 0; v < Shape::kColumns; ++v)
      for (index_t c = seen[v].begin; c < seen[v].end; ++c) f(c, v);
  }

  // Zeros where nothing was computed: to may be read whole.
  void clear_unseen(T* to) const {
    for (index_t v = 0; v < Shape::kColumns; ++v) {
      const index_t end = seen[v].empty() ? 0 : seen[v].end, begin = seen[v].empty() ? 0 : seen[v].begin;
      for (index_t c = 0; c < begin; ++c) S::store(to + c * kQueries + v * kLanes, S::zero());
      for (index_t c = end; c < chunk.size(); ++c) S::store(to + c * kQueries + v * kLanes, S::zero());
    }
  }

  // ---- products ---------------------------------------------------------------------------------------------------------------------

  // to[c][query] = by * sum_n k(c, n) x[n][query] for what is seen; more is written where tiles reach further. The factor is for pairs.
  template <class A>
  void multiply(const KeyRows<A>& k, const T* x, index_t columns, T by, T* to) const {
    const index_t count = chunk.size();
    for (index_t c = 0; c < count;) {
      if (count >= Shape::kKeys && c + Shape::kKeys > count) c = count - Shape::kKeys;  // the last tile overlaps its neighbour
      const index_t keys = count >= Shape::kKeys ? Shape::kKeys : 1;
      multiply_tile(c, keys, Scalars<A>{k.row(c), k.row_stride, std::is_same_v<A, T> ? k.col_stride : 2}, x, columns, by, to);
      c += keys;
    }
  }

  template <class A>
  void multiply_tile(index_t c, index_t keys, const Scalars<A>& scalars, const T* x, index_t columns, T by, T* to) const {
    ahead.issue();
    index_t first = 0, last = Shape::kColumns;
    const auto is_seen = [&](index_t v) { return seen[v].begin < c + keys && c < seen[v].end; };
    while (first < last && !is_seen(first)) ++first;
    while (first < last && !is_seen(last - 1)) --last;
    for (index_t v = first; v < last; v += Shape::kVecs)
      with_vecs<Shape::kVecs>(smaller(last - v, Shape::kVecs), [&]<int Vecs>() {
        const Vectors<T> vectors{x + v * kLanes, kQueries};
        const Sums<T> sums{to + c * kQueries + v * kLanes, kQueries, Start::clear};
        if (keys == 1)
          product<1, Vecs>(scalars, vectors, columns, by, sums);
        else
          product<Shape::kKeys, Vecs>(scalars, vectors, columns, by, sums);
        *block.multiply_adds += keys * Vecs * kLanes * (std::is_same_v<A, T> ? columns : round_up(columns, 2));
      });
  }

  // By reference: copies of these few words on their way to the loop took a fiftieth of the backward pass.
  template <int Keys, int Vecs, class A>
  [[gnu::always_inline]] static void product(const Scalars<A>& scalars, const Vectors<T>& vectors, index_t columns, T by,
                                             const Sums<T>& sums) {
    if constexpr (std::is_same_v<A, T>)
      add_tile<S, Keys, Vecs>(scalars, vectors, columns, sums);
    else
      multiply_pairs<S, Keys, Vecs>(scalars, vectors, ceil_div(columns, 2), by, sums);
  }

  // Pair by pair, the caps with it: few blocks are of such numbers.
  [[gnu::noinline]] void multiply_widely(const KeyRows<K>& k) const {
    const Matrix2<const E> q(head->q);
    for (index_t c = 0; c < chunk.size(); ++c)
      for (index_t r = 0; r < rows.size(); ++r) {
        const index_t position = block.walk.query(rows.begin + r);
        Wide<T> sum = 0;
        for (index_t n = 0; n < block.dim; ++n)
          sum += static_cast<Wide<T>>(widen(*q.at(position, n))) * static_cast<Wide<T>>(widen(k.row(c)[n * k.col_stride]));
        T* const slope = slopes == nullptr ? nullptr : slopes + c * kQueries + r;
        tile[c * kQueries + r] = score_of_product<T>(block.options, sum, natural, slope);
      }
    *block.multiply_adds += chunk.size() * rows.size() * block.dim;
  }

  // ---- options ----------------------------------------------------------------------------------------------------------------------

  void cap() const {
    const auto one = S::splat(T{1}), unit = S::splat(static_cast<T>(block.options.softcap) * in_units<T>(natural));
    for_each_seen([&](index_t c, index_t v) {
      const auto t = hyperbolic_tangent<S>(S::load(at(c, v)));
      S::store(at(c, v), S::mul(t, unit));
      if (slopes != nullptr) S::store(slopes + c * kQueries + v * kLanes, S::fma(S::sub(S::zero(), t), t, one));
    });
  }

  // ---- what is not seen -------------------------------------------------------------------------------------------------------------

  void hide_outside_band() const {
    for (index_t v = 0; v < Shape::kColumns; ++v) {
      if (seen[v].empty()) continue;
      const Range some = rows_of(v), all = block.walk.band.keys_all(some);
      const index_t first = chunk.keys.begin;
      const Range inner = Range{all.begin - first, all.end - first}.intersect(seen[v]);
      const index_t left_end = inner.empty() ? seen[v].end : inner.begin;
      for (index_t c = seen[v].begin; c < left_end; ++c) hide_edge(c, v, some.begin);
      for (index_t c = inner.empty() ? seen[v].end : inner.end; c < seen[v].end; ++c) hide_edge(c, v, some.begin);
    }
  }

  [[gnu::always_inline]] void hide_edge(index_t c, index_t v, index_t first_row) const {
    // Keys before the window's first and behind its last, as numbers of keys: only their signs matter.
    const index_t key = chunk.keys.begin + c, far = index_t{1} << 20;
    const auto before = S::splat(static_cast<T>(clamp(block.walk.band.first(first_row) - key, -far, far)));
    const auto behind = S::splat(static_cast<T>(clamp(key - block.walk.band.last(first_row), -far, far)));
    const auto lane = lane_indices<S>();
    const auto outside = S::max(S::add(before, lane), S::sub(behind, lane));
    S::store(at(c, v), S::where_less(S::zero(), outside, S::splat(kMinusInfinity<T>), S::load(at(c, v))));
  }

  // Of listed global keys: the queries that hold the key in their window see it there, once.
  void hide_in_window() const {
    for (index_t c = 0; c < chunk.size(); ++c) {
      const Range held = rows_that_hold(chunk.list[c]), early = rows_too_early(chunk.list[c]);
      for (index_t row = held.begin; row < held.end; ++row) tile[c * kQueries + (row - rows.begin)] = kMinusInfinity<T>;
      for (index_t row = early.begin; row < early.end; ++row) tile[c * kQueries + (row - rows.begin)] = kMinusInfinity<T>;
    }
  }

  // Rows of the block whose window holds the key at this position.
  Range rows_that_hold(index_t position) const {
    const AttentionGeometry& walk = block.walk;
    const index_t offset = position - walk.first_key;
    if (offset < 0 || offset % walk.step != 0) return {rows.begin, rows.begin};
    const index_t key = offset / walk.step;
    if (key >= walk.band.cols) return {rows.begin, rows.begin};
    return walk.band.transposed().keys_any({key, key + 1}).intersect(rows);
  }

  // With right = 0 nothing is seen before its time.
  Range rows_too_early(index_t position) const {
    if (block.window.band.right > 0) return {rows.begin, rows.begin};
    const index_t distance = position - block.window.band.shift - block.walk.first_query;  // of row 0
    return Range{rows.begin, distance <= 0 ? rows.begin : ceil_div(distance, block.walk.step)}.intersect(rows);
  }

  bool is_seen_globally(index_t position) const {
    return rows_that_hold(position).size() < rows.size() && rows_too_early(position).size() < rows.size();
  }

  void hide_masked() const {
    for (index_t c = 0; c < chunk.size(); ++c) {
      if (block.options.key_mask.contains(gather.position(chunk, c))) continue;
      for (index_t v = 0; v < Shape::kColumns; ++v) S::store(at(c, v), S::splat(kMinusInfinity<T>));
    }
  }
};

// Calls f(chunk) for global keys outside the window that some query sees.
template <class AnyScores, class F>
[[gnu::always_inline]] inline void for_each_listed_chunk(const AnyScores& scores, F&& f) {
  const AttentionBlock& block = scores.block;
  index_t list[AnyScores::kChunk];
  for (index_t next = 0; next < block.num_global_keys;) {
    index_t count = 0;
    for (; next < block.num_global_keys && count < AnyScores::kChunk; ++next)
      if (scores.is_seen_globally(block.global_keys[next])) list[count++] = block.global_keys[next];
    if (count > 0) f(Chunk{{0, count}, list});
  }
}

// Calls f(chunk) for all keys that a block of queries may see: those of the walk, then global keys outside the window.
template <Simd S, class E, class Shape, class F>
[[gnu::always_inline]] inline void for_each_chunk(const Scores<S, E, Shape>& scores, Range rows, F&& f) {
  const AttentionBlock& block = scores.block;
  const index_t keys = block.walk.band.keys_any(rows).size(), chunks = ceil_div(keys, Shape::kChunk);
  const index_t even = chunks == 0 ? Shape::kChunk : round_up(ceil_div(keys, chunks), S::kTileRows * 4);
  for_each_key_tile(block.walk.band, rows, smaller(even, Shape::kChunk), [&](Range tile, bool) { f(Chunk{tile}); });
  for_each_listed_chunk(scores, f);
}

}  // namespace
}  // namespace window_matmul::cpu
