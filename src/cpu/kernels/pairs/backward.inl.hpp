// src/cpu/kernels/pairs/backward.inl.hpp: the products of the backward pass in bf16, on tiles.
//
// All else is attention/backward_phases.inl.hpp.
//
// What is not finite in d_out, q and k is taken out of the products, and added by hand to the rows that give it a weight. Chunks whose
// products may not be finite are left to attention/backward.inl.hpp, and so are blocks of far log-sum-exps, or of an output in fp32.
#pragma once

#include "cpu/kernels/attention/backward_item.inl.hpp"
#include "cpu/kernels/pairs/scores.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <HasTiles S>
struct PairBackwardScratch : BackwardNumbers<float> {
  using Shape = PairShape<kPairBackwardQueries, kPairBackwardChunk>;
  // Pairs of q and d_out, [D / 2][queries] and [queries / 2][padded D]; of keys [chunk / 2][padded D]; d_S as A, high and low parts, [chunk
  // / 32][queries][32]; sums of d_q [queries][padded D]; copied rows. Before them is what vectors need, and the sums of the held keys.
  typename AttentionBackward<S, bf16>::Scratch of_vectors;
  float *key_sums, *queries, *d_out_transposed, *q, *d_out, *k, *turned, *d_q;
  bf16* copied;

  PairBackwardScratch(void* memory, const AttentionBlock& block) : of_vectors(memory, block), key_sums(of_vectors.key_sums) {
    const index_t dim = padded(block.dim), value_dim = padded(block.value_dim), lanes = Shape::kQueries;
    const index_t steps = whole_steps(block.dim), value_steps = whole_steps(block.value_dim), chunk = Shape::kChunk;
    Taker<float> taken{key_sums + (block.key_sums.capacity + kBackwardChunk) * (dim + value_dim)};
    queries = taken(steps / 2 * lanes), d_out_transposed = taken(value_steps / 2 * lanes);
    take(chunk * lanes, lanes, block.value_dim, taken);
    q = taken(lanes / 2 * dim), d_out = taken(lanes / 2 * value_dim), k = taken(chunk / 2 * dim), turned = taken(chunk * lanes);
    d_q = taken(lanes * dim);
    copied = reinterpret_cast<bf16*>(taken(larger(chunk, lanes) * larger(steps, value_steps) / 2));
  }
};

template <HasTiles S>
struct PairBackward : BackwardPhases<S, bf16, PairScores<S, typename PairBackwardScratch<S>::Shape>> {
  using Scratch = PairBackwardScratch<S>;
  using Shape = typename Scratch::Shape;
  using Phases = BackwardPhases<S, bf16, PairScores<S, Shape>>;
  static constexpr index_t kQueries = Shape::kQueries, kChunk = Shape::kChunk, kKeysOfTile = kTile / 2, kLanes = S::kLanes;
  static_assert(kQueries <= AttentionBackward<S, bf16>::kQueries && kChunk <= AttentionBackward<S, bf16>::kChunk);
  using Phases::block, Phases::head, Phases::rows, Phases::scores;

  const Scratch& scratch;
  AttentionBackward<S, bf16> by_vectors;
  bool by_vectors_alone = false, has_taken = false;  // by_vectors has taken the block
  float largest_query = 0, largest_d_out = 0, largest_key = 0;

  PairBackward(const AttentionBlock& of, const Scratch& memory, const AttentionHead& taken, Prefetcher& ahead)
      : Phases{{of,
                memory,
                taken,
                {{of, memory.queries, memory.p, of.options.softcap > 0 ? memory.slopes : nullptr, ahead}, memory.copied, false}}},
        scratch(memory),
        by_vectors(of, memory.of_vectors, taken, ahead) {}

  template <class F>
  void for_each_chunk(F&& f) const {
    const index_t keys = block.walk.band.keys_any(rows).size(), chunks = ceil_div(keys, kChunk);
    const index_t even = chunks == 0 ? kChunk : round_up(ceil_div(keys, chunks), kStep);
    for_each_key_tile(block.walk.band, rows, even, [&](Range tile, bool) { f(Chunk{tile}); });
    for_each_listed_chunk(scores, f);
  }

  void take(Range of, bool first_time) {
    Phases::take_log_sum_exps(of);
    scores.head = &head, scores.rows = of;  // which global keys are seen depends on them
    by_vectors_alone = block.options.out_is_f32 || scores.natural || Phases::any_coarse;
    has_taken = by_vectors_alone;
    if (by_vectors_alone) return by_vectors.take(of, first_time);
    scores.take_queries(head, rows);
    scores.take(head.d_out, block.value_dim, scratch.d_out_transposed);
    largest_query = pair_queries(head.q, block.dim, scratch.q), largest_d_out = pair_queries(head.d_out, block.value_dim, scratch.d_out);
    for (index_t r = 0; r < rows.size(); ++r) Phases::take_row(r, first_time);
  }

  float pair_queries(const Operand& from, index_t columns, float* to) const {
    const AttentionGeometry& walk = block.walk;
    return pair_finite_rows<S>(from, rows.size(), kQueries, columns, walk.query_list == nullptr ? walk.step : 0, scratch.copied, to,
                               [&](index_t r) { return walk.query(rows.begin + r); });
  }

  // The pairs of keys. False where products with those that the mask shows may not be finite.
  bool take_keys(const Chunk& chunk) {
    const index_t size = chunk.size();
    const auto position = [&](index_t c) { return scores.gather.position(chunk, c); };
    largest_key = pair_finite_rows<S>(block.k, size, round_up(size, kStep), block.dim, chunk.list == nullptr ? block.walk.step : 0,
                                      scratch.copied, scratch.k, position);
    if (!are_large(block.dim, largest_query, largest_key)) return true;
    Largest<S> shown;
    add_keys(block, scores.gather, chunk, reinterpret_cast<float*>(scratch.copied), &shown);
    return !are_large(block.dim, largest_query, shown.value());
  }

  // Adds to d_k and d_v of these keys, of the walk or of a list of global ones, and to the sums of d_q.
  void differentiate(const Chunk& chunk, const Sums<float>& d_k, const Sums<float>& d_v, const Sums<float>& d_q) {
    if (by_vectors_alone || !take_keys(chunk)) return differentiate_by_vectors(chunk, d_k, d_v, d_q);
    scores.compute(chunk);
    Phases::exponentiate();
    if (Phases::wants_scores()) scores.multiply(block.v, block.value_dim, scratch.d_out_transposed, scratch.d_s);
    Phases::subtract_and_share();
    Phases::pass_to_products();
    if (rows.size() < kQueries) clear_lanes_without_query();
    if (Phases::wants_q) add_to_queries(d_q);
    if (Phases::wants_v) add_to_keys(scratch.p, head.d_out, scratch.d_out, block.value_dim, is_finite(largest_d_out), d_v);
    if (Phases::wants_k) add_to_keys(scratch.d_s, head.q, scratch.q, block.dim, is_finite(largest_query), d_k);
  }

  [[gnu::noinline]] void differentiate_by_vectors(const Chunk& chunk, const Sums<float>& d_k, const Sums<float>& d_v,
                                                  const Sums<float>& d_q) {
    if (!has_taken) by_vectors.take(rows, false);
    has_taken = true;
    by_vectors.differentiate(chunk, d_k, d_v, d_q);
  }

  static bool is_finite(float largest) { return largest < std::numeric_limits<float>::infinity(); }

  // Where such a lane meets a NaN of a key, nobody has hidden it; and here sums run over lanes.
  void clear_lanes_without_query() const {
    for (index_t c = 0; c < scores.chunk.size(); ++c)
      for (float* tile : {scratch.p, scratch.d_s}) fill_row(0.0f, tile + c * kQueries, 1, {rows.size(), kQueries});
  }

  // ---- sums -------------------------------------------------------------------------------------------------------------------------

  // to(key, n) += sum over queries of weights(key, query) x(query, n). The weights become rows of bf16: of 32 the high parts in the place
  // of the first 16, and the low ones in that of the others.
  void add_to_keys(float* weights, const Operand& x, const float* pairs, index_t columns, bool finite, const Sums<float>& to) const {
    const index_t size = scores.chunk.size(), width = padded(columns);
    if (!finite)
      add_not_finite(
          x, rows.size(), columns, to, [&](index_t r) { return block.walk.query(rows.begin + r); },
          [&](index_t r, index_t c) { return weights[c * kQueries + r]; }, size);
    for (index_t c = 0; c < round_up(size, kTile); ++c)
      for (float *at = weights + c * kQueries, *end = at + kQueries; at < end; at += kStep) {
        const auto first = c < size ? S::load(at) : S::zero(), second = c < size ? S::load(at + kLanes) : S::zero();
        S::store(at, S::halves(S::high_part(first), S::high_part(second)));
        S::store(at + kLanes, S::halves(low_part<S>(first), low_part<S>(second)));
      }
    for (index_t c = 0; c < size; c += kStep) {
      const Range steps = steps_that_see({c, c + kStep});
      if (steps.empty()) continue;
      const TileOperand a{weights + c * kQueries + steps.begin * kStep, 4 * kQueries, 4 * kStep, 4 * kQueries * kTile, 4 * kLanes};
      const index_t tiles = size - c > kTile ? 2 : 1;
      for (index_t n = 0; n < width; n += kStep)
        *block.multiply_adds += add_tiles<S>(tiles, smaller(2, (width - n) / kTile), a,
                                             pairs_in_rows(pairs + n, width).from(steps.begin, 0), steps.size(), to.at(c, n));
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
    const index_t width = padded(block.dim);
    turn(scores.chunk.size());
    const bool shared = to.data != scratch.d_q;  // global queries: of fewer rows than tiles have
    if (shared) fill_row(0.0f, scratch.d_q, 1, {0, kQueries * width});
    const Sums<float> sums{scratch.d_q, width};
    if (!is_finite(largest_key))
      add_not_finite(
          block.k, scores.chunk.size(), block.dim, sums, [&](index_t c) { return scores.gather.position(scores.chunk, c); },
          [&](index_t c, index_t r) { return scratch.d_s[c * kQueries + r]; }, rows.size());
    for (index_t v = 0; v < Shape::kColumns; v += 2) {
      const Range steps = scores.steps_of_two(v);
      if (steps.empty()) continue;
      const TileOperand a{scratch.turned, 2 * kStep, 2 * kQueries * kStep, 2 * kTile * kStep, 2 * kQueries * kChunk};
      for (index_t n = 0; n < width; n += kStep)
        *block.multiply_adds += add_tiles<S>(2, smaller(2, (width - n) / kTile), a.from(steps.begin, v),
                                             pairs_in_rows(scratch.k + n, width).from(steps.begin, 0), steps.size(), sums.at(v * kTile, n));
    }
    for (index_t i = 0; shared && i < rows.size() * width; i += kLanes)
      S::store(to.data + i, S::add(S::load(to.data + i), S::load(scratch.d_q + i)));
  }

  // d_S of whole steps of keys, transposed; behind the last key it is zero.
  void turn(index_t size) const {
    for (index_t c = size; c < round_up(size, kStep); ++c) fill_row(0.0f, scratch.d_s + c * kQueries, 1, {0, kQueries});
    for (index_t v = 0; v < Shape::kColumns; ++v)
      for (index_t c = 0; c < size; c += kStep) turn_square(c, v);
  }

  void turn_square(index_t c, index_t v) const {
    const float* const from = scratch.d_s + c * kQueries + v * kLanes;
    float* const to = scratch.turned + (c / kStep * kQueries + v * kTile) * kTile;
    typename S::Vec high[kTile], low[kTile];
#pragma GCC unroll 16
    for (index_t i = 0; i < kTile; ++i) {
      const auto even = S::load(from + 2 * i * kQueries), odd = S::load(from + (2 * i + 1) * kQueries);
      high[i] = S::pairs(S::high_part(even), S::high_part(odd)), low[i] = S::pairs(low_part<S>(even), low_part<S>(odd));
    }
    S::transpose(high), S::transpose(low);
#pragma GCC unroll 16
    for (index_t i = 0; i < kTile; ++i) S::store(to + i * kTile, high[i]), S::store(to + kQueries * kChunk / 2 + i * kTile, low[i]);
  }

  // to(i, n) += weight(step, i) x(step, n) for the x that are not finite.
  template <class P, class W>
  static void add_not_finite(const Operand& x, index_t steps, index_t columns, const Sums<float>& to, P&& position, W&& weight,
                             index_t count) {
    const Matrix2<const bf16> m(x);
    for (index_t step = 0; step < steps; ++step)
      for (index_t n = 0; n < columns; ++n) {
        const bf16 element = *m.at(position(step), n);
        for (index_t i = 0; !cpu::is_finite(element) && i < count; ++i)
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
