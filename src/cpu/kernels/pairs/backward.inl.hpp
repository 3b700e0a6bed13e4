// src/cpu/kernels/pairs/backward.inl.hpp: the products of the backward pass in bf16, on tiles; all else is
// attention/backward_phases.inl.hpp.
//
// P and d_S are rounded to bf16 for the products with d_out, q and k, and nowhere else. What is not finite in these is taken out of the
// products, and added by hand to the rows that give it a weight.
#pragma once

#include "cpu/kernels/attention/backward_item.inl.hpp"
#include "cpu/kernels/pairs/scores.inl.hpp"

namespace window_matmul::cpu {
namespace {

struct PairBackwardScratch : BackwardNumbers<float> {
  using Shape = PairShape<kPairBackwardQueries, kPairBackwardChunk>;
  // Pairs of q and d_out, [D / 2][queries] and [queries / 2][padded D]; of keys [chunk / 2][padded D]; d_S as A [chunk / 32][queries][32];
  // sums of d_q [queries][padded D]; copied rows; sums of the held keys.
  float *queries, *d_out_transposed, *q, *d_out, *k, *turned, *d_q;
  bf16* copied;
  float* key_sums;

  PairBackwardScratch(const AttentionBlock& block, index_t lanes) {
    float* next = static_cast<float*>(block.scratch);
    const auto taken = [&](index_t count) {
      float* of = next;
      next += round_up(count, kMaxLanes);
      return of;
    };
    const index_t dim = padded(block.dim), value_dim = padded(block.value_dim);
    const index_t steps = whole_steps(block.dim), value_steps = whole_steps(block.value_dim), chunk = Shape::kChunk;
    queries = taken(steps / 2 * lanes), d_out_transposed = taken(value_steps / 2 * lanes);
    take(chunk * lanes, lanes, value_dim, taken);
    q = taken(lanes / 2 * dim), d_out = taken(lanes / 2 * value_dim), k = taken(chunk / 2 * dim), turned = taken(chunk * lanes / 2);
    d_q = taken(lanes * dim);
    copied = reinterpret_cast<bf16*>(taken(larger(chunk, lanes) * larger(steps, value_steps) / 2));
    key_sums = next;
  }
};

template <HasTiles S>
struct PairBackward : BackwardPhases<S, bf16, PairScores<S, PairBackwardScratch::Shape>> {
  using Shape = PairBackwardScratch::Shape;
  using Base = BackwardPhases<S, bf16, PairScores<S, Shape>>;
  using Scratch = PairBackwardScratch;
  static constexpr index_t kQueries = Shape::kQueries, kChunk = Shape::kChunk, kKeysOfTile = kTile / 2, kLanes = S::kLanes;
  using Base::block, Base::head, Base::rows, Base::scores;

  const Scratch& scratch;
  bool q_finite = true, d_out_finite = true;

  PairBackward(const AttentionBlock& of, const Scratch& memory, const AttentionHead& taken, Prefetcher& ahead)
      : Base{of,
             memory,
             taken,
             {{of, memory.p, of.options.softcap > 0 ? memory.slopes : nullptr}, memory.queries, memory.copied, ahead, false}},
        scratch(memory) {}

  template <class F>
  void for_each_chunk(F&& f) const {
    const index_t keys = block.walk.band.keys_any(rows).size(), chunks = ceil_div(keys, kChunk);
    const index_t even = chunks == 0 ? kChunk : round_up(ceil_div(keys, chunks), kStep);
    for_each_key_tile(block.walk.band, rows, even, [&](Range tile, bool) { f(Chunk{tile}); });
    for_each_listed_chunk(scores, f);
  }

  void take(Range of, bool first_time) {
    rows = of;
    scores.take_queries(head, rows);
    scores.take(head.d_out, block.value_dim, scratch.d_out_transposed);
    q_finite = pair_queries(head.q, block.dim, scratch.q), d_out_finite = pair_queries(head.d_out, block.value_dim, scratch.d_out);
    Base::take_rows(first_time, [&](auto&& f) {
      for_each_chunk([&](const Chunk& chunk) {
        scores.compute(chunk);
        f();
      });
    });
  }

  bool pair_queries(const Operand& from, index_t columns, float* to) const {
    const AttentionGeometry& walk = block.walk;
    return pair_finite_rows<S>(from, rows.size(), kQueries, columns, walk.query_list == nullptr ? walk.step : 0, scratch.copied, to,
                               [&](index_t r) { return walk.query(rows.begin + r); });
  }

  // Adds to d_k and d_v of these keys, of the walk or of a list of global ones, and to the sums of d_q.
  void differentiate(const Chunk& chunk, const Sums<float>& d_k, const Sums<float>& d_v, const Sums<float>& d_q) {
    scores.compute(chunk);
    Base::exponentiate();
    if (Base::wants_scores()) scores.multiply(block.v, block.value_dim, scratch.d_out_transposed, scratch.d_s);
    Base::subtract_and_share();
    if (block.options.softcap > 0) Base::multiply_with_slopes();
    if (rows.size() < kQueries) clear_lanes_without_query();
    if (Base::wants_q) add_to_queries(d_q);
    if (Base::wants_v) add_to_keys(scratch.p, head.d_out, scratch.d_out, block.value_dim, d_out_finite, d_v);
    if (Base::wants_k) add_to_keys(scratch.d_s, head.q, scratch.q, block.dim, q_finite, d_k);
  }

  // Where such a lane meets a NaN of a key, nobody has hidden it; and here sums run over lanes.
  void clear_lanes_without_query() const {
    for (index_t c = 0; c < scores.chunk.size(); ++c)
      for (float* tile : {scratch.p, scratch.d_s}) fill_row(0.0f, tile + c * kQueries, 1, {rows.size(), kQueries});
  }

  // ---- sums -------------------------------------------------------------------------------------------------------------------------

  // to(key, n) += sum over queries of weights(key, query) x(query, n). The weights become rows of bf16, 32 in the place of 16.
  void add_to_keys(float* weights, const Operand& x, const float* pairs, index_t columns, bool finite, const Sums<float>& to) const {
    const index_t size = scores.chunk.size(), width = padded(columns);
    if (!finite)
      add_not_finite(
          x, rows.size(), columns, to, [&](index_t r) { return block.walk.query(rows.begin + r); },
          [&](index_t r, index_t c) { return c < size ? weights[c * kQueries + r] : 0; }, size);
    for (index_t c = 0; c < round_up(size, kTile); ++c)
      for (float *at = weights + c * kQueries, *end = at + kQueries; at < end; at += kStep)
        S::store(at, c < size ? S::halves(S::load(at), S::load(at + kLanes)) : S::zero());
    for (index_t c = 0; c < size; c += kStep) {
      const Range steps = steps_that_see({c, c + kStep});
      if (steps.empty()) continue;
      const TileOperand a{weights + c * kQueries + steps.begin * kStep, 4 * kQueries, 4 * kStep, 4 * kQueries * kTile};
      const index_t tiles = size - c > kTile ? 2 : 1;
      for (index_t n = 0; n < width; n += kStep) {
        const TileOperand b = pairs_in_rows(pairs + n, width);
        *block.multiply_adds += add_tiles<S>(tiles, smaller(2, (width - n) / kTile), a, {b.at(steps.begin, 0), b.row, b.step, b.neighbour},
                                             steps.size(), to.at(c, n));
      }
    }
  }

  // Of 32 queries each.
  Range steps_that_see(Range keys) const {
    Range steps{0, kQueries / kStep};
    const auto sees = [&](index_t step) { return !scores.seen_by_two(2 * step).intersect(keys).empty(); };
    while (!steps.empty() && !sees(steps.begin)) ++steps.begin;
    while (!steps.empty() && !sees(steps.end - 1)) --steps.end;
    return steps;
  }

  // to(query, n) += sum over keys of d_s(key, query) k(key, n).
  void add_to_queries(const Sums<float>& to) const {
    const Chunk& chunk = scores.chunk;
    const index_t size = chunk.size(), width = padded(block.dim);
    const auto position = [&](index_t c) { return scores.gather.position(chunk, c); };
    const bool finite = pair_finite_rows<S>(block.k, size, round_up(size, kStep), block.dim, chunk.list == nullptr ? block.walk.step : 0,
                                            scratch.copied, scratch.k, position);
    turn(size);
    const bool shared = to.data != scratch.d_q;  // global queries: of fewer rows than tiles have
    if (shared) fill_row(0.0f, scratch.d_q, 1, {0, kQueries * width});
    const Sums<float> sums{scratch.d_q, width};
    if (!finite)
      add_not_finite(
          block.k, size, block.dim, sums, position, [&](index_t c, index_t r) { return scratch.d_s[c * kQueries + r]; }, rows.size());
    for (index_t v = 0; v < Shape::kColumns; v += 2) {
      const Range steps = scores.steps_of_two(v);
      if (steps.empty()) continue;
      const TileOperand a{scratch.turned, 2 * kStep, 2 * kQueries * kStep, 2 * kTile * kStep};
      for (index_t n = 0; n < width; n += kStep) {
        const TileOperand b = pairs_in_rows(scratch.k + n, width);
        *block.multiply_adds += add_tiles<S>(2, smaller(2, (width - n) / kTile), {a.at(steps.begin, v), a.row, a.step, a.neighbour},
                                             {b.at(steps.begin, 0), b.row, b.step, b.neighbour}, steps.size(), sums.at(v * kTile, n));
      }
    }
    for (index_t i = 0; shared && i < rows.size() * width; i += kLanes)
      S::store(to.data + i, S::add(S::load(to.data + i), S::load(scratch.d_q + i)));
  }

  // d_S of whole steps of keys, transposed; behind the last key it is zero.
  void turn(index_t size) const {
    for (index_t c = size; c < round_up(size, kStep); ++c) fill_row(0.0f, scratch.d_s + c * kQueries, 1, {0, kQueries});
    for (index_t v = 0; v < Shape::kColumns; ++v)
      for (index_t c = 0; c < size; c += kStep) {
        const float* const from = scratch.d_s + c * kQueries + v * kLanes;
        typename S::Vec square[kTile];
#pragma GCC unroll 16
        for (index_t i = 0; i < kTile; ++i) square[i] = S::pairs(S::load(from + 2 * i * kQueries), S::load(from + (2 * i + 1) * kQueries));
        S::transpose(square);
#pragma GCC unroll 16
        for (index_t i = 0; i < kTile; ++i) S::store(scratch.turned + (c / kStep * kQueries + v * kTile + i) * kTile, square[i]);
      }
  }

  // to(i, n) += weight(step, i) x(step, n) for the x that are not finite.
  template <class P, class W>
  static void add_not_finite(const Operand& x, index_t steps, index_t columns, const Sums<float>& to, P&& position, W&& weight,
                             index_t count) {
    const Matrix2<const bf16> m(x);
    for (index_t step = 0; step < steps; ++step)
      for (index_t n = 0; n < columns; ++n) {
        const bf16 element = *m.at(position(step), n);
        for (index_t i = 0; !is_finite(element) && i < count; ++i)
          if (const float by = weight(step, i); by != 0) to.data[i * to.stride + n] += by * widen(element);
      }
  }
};

template <HasTiles S>
void pair_attention_backward(const AttentionBlock& block) {
  S::Tiles::configure();
  AttentionBackwardItem<S, bf16, PairBackward<S>>{block}.run();
  S::Tiles::release();
}

}  // namespace
}  // namespace window_matmul::cpu
