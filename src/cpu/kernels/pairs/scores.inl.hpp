// src/cpu/kernels/pairs/scores.inl.hpp: scores of a block of queries with a chunk of keys, multiplied in bf16, and the softmax's weights.
//
// As attention/scores.inl.hpp has them: a row a key, a lane a query. Queries are multiplied as they are: their factor is left to whoever
// reads the scores (`factor`), unless an option needs them in units of log 2. Chunks begin at multiples of 32 keys.
#pragma once

#include "cpu/kernels/attention/dropout.inl.hpp"
#include "cpu/kernels/attention/softmax.inl.hpp"
#include "cpu/kernels/pairs/pack.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <index_t Queries, index_t Chunk>
struct PairShape {
  static constexpr index_t kQueries = Queries, kChunk = Chunk, kColumns = Queries / kTile;
  static_assert(kQueries <= kMaxQueryLanes && kQueries % kStep == 0 && kChunk % kStep == 0);
};

template <HasTiles S, class Shape>
struct PairScores : Scores<S, bf16, Shape> {
  using Base = Scores<S, bf16, Shape>;
  using Base::at, Base::block, Base::chunk, Base::gather, Base::head, Base::kLanes, Base::kQueries, Base::rows, Base::seen, Base::tile;
  using Base::queries;  // pairs [D / 2][kQueries]
  static_assert(kLanes == kTile);

  bf16* const copied;  // rows of keys or queries [larger(kChunk, kQueries)][whole steps of D]
  const bool may_defer = true;
  const float of_products = Base::unit();
  const bool deferred = may_defer && block.options.softcap == 0 && !block.options.has_bias && of_products > 0;
  const float factor = deferred ? of_products : 1;  // of the scores in the tile; positive

  void take_queries(const AttentionHead& of, Range r) {
    head = &of, rows = r;
    take(of.q, block.dim, queries);
  }
  void take(const Operand& from, index_t columns, float* to) const {
    pair_columns<S>(rows_of_queries(gather, from, rows, kQueries, columns, copied), kQueries, whole_steps(columns), to, kQueries);
  }

  void compute(const Chunk& of) {
    Base::begin(of);
    multiply(block.k, block.dim, queries, tile);
    const auto unit = S::splat(of_products);
    if (!deferred) Base::for_each_seen([&](index_t c, index_t v) { S::store(at(c, v), S::mul(S::load(at(c, v)), unit)); });
    if (block.options.softcap > 0) Base::cap();
    Base::add_bias_and_hide();
  }

  // Keys that some query of this vector and the next sees.
  Range seen_by_two(index_t v) const {
    if (v + 1 >= Base::kColumns || seen[v + 1].empty()) return seen[v];
    if (seen[v].empty()) return seen[v + 1];
    return {smaller(seen[v].begin, seen[v + 1].begin), larger(seen[v].end, seen[v + 1].end)};
  }
  Range steps_of_two(index_t v) const {
    const Range keys = seen_by_two(v);
    return keys.empty() ? Range{} : Range{keys.begin / kStep, ceil_div(keys.end, kStep)};
  }

  // to[c][query] = sum_n x(c, n) y[n][query] for what is seen; more is written where tiles reach further.
  void multiply(const Operand& x, index_t columns, const float* y, float* to) const {
    const PairRows keys = rows_of_keys(gather, x, chunk, columns, copied);
    const index_t most = larger(chunk.size(), kTile);
    for (index_t v = 0; v < Base::kColumns; v += 2) {
      const Range of = seen_by_two(v);
      if (of.empty()) continue;
      const index_t first = of.begin / kTile * kTile, tiles = smaller(ceil_div(of.end, kTile) * kTile, most / kTile * kTile) - first;
      multiply_tiles(keys, first, tiles / kTile, v, columns, y, to);
      if (of.end > first + tiles) multiply_tiles(keys, most - kTile, 1, v, columns, y, to);  // overlaps its neighbour
    }
  }
  void multiply_tiles(const PairRows& keys, index_t c, index_t tiles, index_t v, index_t columns, const float* y, float* to) const {
    const index_t steps = ceil_div(columns, kStep);
    const TileOperand a = rows_in_place(keys.row(c), keys.row_stride), b = pairs_in_rows(y + v * kLanes, kQueries);
    const Sums<float> sums{to + c * kQueries + v * kLanes, kQueries, Start::clear};
    const auto issue = [&]() __attribute__((always_inline)) { Base::ahead.issue(); };
    if (steps == 1)
      multiply_rows<S, 1>(a, b, tiles, sums, issue);
    else if (steps == 2)
      multiply_rows<S, 2>(a, b, tiles, sums, issue);
    else
      for (index_t i = 0; i < tiles; i += 2) {
        Base::ahead.issue();
        add_tiles<S>(smaller(2, tiles - i), 2, a.from(0, i), b, steps, sums.at(i * kTile, 0));
      }
    *block.multiply_adds += 2 * tiles * steps * kTile * kTile * kStep;
  }
};

// Calls f(chunk) for all keys that a block of queries may see: those of the walk, from a multiple of 32 on, then global keys outside.
template <HasTiles S, class Shape, class F>
[[gnu::always_inline]] inline void for_each_chunk(const PairScores<S, Shape>& scores, Range rows, F&& f) {
  const Band& band = scores.block.walk.band;
  const Range any = band.keys_any(rows);
  if (!any.empty()) {
    const Range steps{any.begin / kStep, ceil_div(any.end, kStep)};
    const index_t even = ceil_div(steps.size(), ceil_div(steps.size(), Shape::kChunk / kStep));
    for (index_t step = steps.begin; step < steps.end; step += even)
      f(Chunk{{step * kStep, smaller(smaller(step + even, steps.end) * kStep, band.cols)}});
  }
  for_each_listed_chunk(scores, f);
}

// The softmax of attention/softmax.inl.hpp, whose weights become pairs: of rows c and c + 1 of the tile, for even c, the high parts in the
// place of row c, the low ones in that of row c + 1.
template <HasTiles S, class Shape>
struct PairSoftmax {
  using AnyScores = PairScores<S, Shape>;
  static constexpr index_t kQueries = Shape::kQueries, kLanes = S::kLanes;

  const AnyScores& scores;
  float *const highest, *const total, *const factor;

  void start() const {
    fill_row(kMinusInfinity<float>, highest, 1, {0, kQueries});
    fill_row(0.0f, total, 1, {0, kQueries});
  }

  void exponentiate() const {
    for (index_t v = 0; v < Shape::kColumns; ++v) exponentiate(v);
    if (scores.block.options.dropout_p > 0) drop();
    for (index_t v = 0; v < Shape::kColumns; ++v) clear_unseen(v);
  }

 private:
  void exponentiate(index_t v) const {
    if (scores.seen[v].empty()) return S::store(factor + v * kLanes, S::splat(1));
    const Range keys = hidden_partners(v);
    float* const column = scores.at(0, v);
    const auto unit = S::splat(scores.factor), before = S::load(highest + v * kLanes);
    const auto found = S::mul(OnlineSoftmax<S, AnyScores>::highest_of_column(column, keys, S::splat(kMinusInfinity<float>)), unit);
    const auto after = S::where_less(before, found, found, before);
    S::store(highest + v * kLanes, after);
    const auto offset = finite_offset<S>(after);
    const auto rescale = exp2_nonpositive<S>(S::sub(before, offset));
    S::store(factor + v * kLanes, rescale);
    const bool drops = scores.block.options.dropout_p > 0;
    const auto sum = drops ? sum_of_powers<false>(column, keys, unit, offset) : sum_of_powers<true>(column, keys, unit, offset);
    S::store(total + v * kLanes, S::fma(S::load(total + v * kLanes), rescale, sum));
  }

  // Whole pairs around what is seen; what has become part of it is hidden.
  Range hidden_partners(index_t v) const {
    const Range keys = scores.seen[v];
    const auto hide = [&](index_t c) { S::store(scores.at(c, v), S::splat(kMinusInfinity<float>)); };
    if (keys.begin % 2 != 0) hide(keys.begin - 1);
    if (keys.end % 2 != 0) hide(keys.end);
    return whole_pairs(keys);
  }
  static Range whole_pairs(Range keys) { return {keys.begin / 2 * 2, round_up(keys.end, 2)}; }

  template <bool ToPairs>
  static typename S::Vec sum_of_powers(float* column, Range keys, typename S::Vec unit, typename S::Vec offset) {
    const auto shift = S::sub(S::zero(), offset);
    auto even_sum = S::zero(), odd_sum = S::zero();
    for (index_t c = keys.begin; c < keys.end; c += 2) {
      float* const at = column + c * kQueries;
      const auto even = exp2_nonpositive<S>(S::fma(S::load(at), unit, shift));
      const auto odd = exp2_nonpositive<S>(S::fma(S::load(at + kQueries), unit, shift));
      even_sum = S::add(even_sum, even), odd_sum = S::add(odd_sum, odd);
      if constexpr (ToPairs)
        store_pairs(at, even, odd);
      else
        S::store(at, even), S::store(at + kQueries, odd);
    }
    return S::add(even_sum, odd_sum);
  }

  [[gnu::always_inline]] static void store_pairs(float* at, typename S::Vec even, typename S::Vec odd) {
    S::store(at, S::pairs(S::high_part(even), S::high_part(odd)));
    S::store(at + kQueries, S::pairs(low_part<S>(even), low_part<S>(odd)));
  }

  void drop() const {
    Dropout<S, AnyScores>(scores).for_each_seen([&](index_t c, index_t v, typename S::Vec gains) {
      const auto weight = S::load(scores.at(c, v));  // may be NaN
      S::store(scores.at(c, v), S::where_less(S::zero(), gains, S::mul(weight, gains), S::zero()));
    });
    for (index_t v = 0; v < Shape::kColumns; ++v)
      for (index_t c = whole_pairs(scores.seen[v]).begin; c < scores.seen[v].end; c += 2)
        store_pairs(scores.at(c, v), S::load(scores.at(c, v)), S::load(scores.at(c + 1, v)));
  }

  // Zeros up to whole steps.
  void clear_unseen(index_t v) const {
    const Range steps = scores.steps_of_two(v / 2 * 2), keys = scores.seen[v].empty() ? Range{} : whole_pairs(scores.seen[v]);
    const index_t begin = keys.empty() ? steps.end * kStep : keys.begin;
    for (index_t c = steps.begin * kStep; c < begin; ++c) S::store(scores.at(c, v), S::zero());
    for (index_t c = keys.empty() ? begin : keys.end; c < steps.end * kStep; ++c) S::store(scores.at(c, v), S::zero());
  }
};

}  // namespace
}  // namespace window_matmul::cpu
