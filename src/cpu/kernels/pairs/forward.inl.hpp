// src/cpu/kernels/pairs/forward.inl.hpp: out = softmax(scores) v and its log-sum-exp in bf16, on tiles: attention/forward.inl.hpp once
// more.
//
//   O^T = O^T 2^(m - m') + vT P^T        sums are [Dv][queries]: a row a number of v, a lane a query, as the scores are
//
// P is rounded to bf16 for the product; its sum l, and with it the log-sum-exp, is that of the exact P. What is not finite in v is taken
// out of the product where an output is not finite, and added by hand to the queries that give it a weight.
#pragma once

#include "cpu/kernels/attention/few.inl.hpp"
#include "cpu/kernels/pairs/scores.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <HasTiles S>
struct PairForward {
  using Shape = PairShape<kPairQueries, kPairChunk>;
  static constexpr index_t kQueries = Shape::kQueries, kChunk = Shape::kChunk, kLanes = S::kLanes;

  const AttentionBlock& block;
  const AttentionHead& head = block.heads[0];
  // Scratch: pairs of queries, scores, sums of O, m, l and the factor of each query, copied rows, transposed keys of v.
  const index_t dim = whole_steps(block.dim), width = padded(block.value_dim);
  float* const queries = static_cast<float*>(block.scratch);
  float* const tile = queries + dim / 2 * kQueries;
  float* const sums = tile + kChunk * kQueries;
  float* const highest = sums + whole_steps(block.value_dim) * kQueries;
  float* const total = highest + kQueries;
  float* const factor = total + kQueries;
  bf16* const copied = reinterpret_cast<bf16*>(factor + kQueries);
  bf16* const line = copied + larger(kChunk, kQueries) * dim;
  bf16* const transposed = line + kStep * whole_steps(block.value_dim);
  Prefetcher ahead{};
  PairScores<S, Shape> scores{{block, tile, nullptr}, queries, copied, ahead};
  const PairSoftmax<S, Shape> softmax{scores, highest, total, factor};
  TransposedKeys<S> v{scores.gather, block.v, block.value_dim, block.held_steps, line, transposed};
  bool started = false;

  void run() {
    S::Tiles::configure();
    for (index_t row = block.rows.begin; row < block.rows.end; row += kQueries) {
      const Range rows{row, smaller(row + kQueries, block.rows.end)};
      if (all_of_another_item(block, rows)) continue;
      scores.take_queries(head, rows);
      queue_next_block<bf16>(block, rows, block.walk.band.keys_any(rows).size() / (block.dim > 2 * kStep ? kStep : kTile), &ahead);
      if (attend(rows, false)) continue;
      v.forget(true);
      attend(rows, true);  // in the place of what was written
      v.forget(false);
    }
    S::Tiles::release();
  }

  // False where an output is not finite.
  bool attend(Range rows, bool exactly) {
    started = false;
    softmax.start();
    for_each_chunk(scores, rows, [&](const Chunk& chunk) {
      scores.compute(chunk);
      softmax.exponentiate();
      weigh(chunk);
      if (exactly) add_not_finite(chunk);
      started = true;
    });
    if (!started) fill_row(0.0f, sums, 1, {0, width * kQueries});
    if (head.lse.address != 0) write_lse(block, rows, kQueries, highest, total, factor);
    return write(rows);
  }

  // ---- sums -------------------------------------------------------------------------------------------------------------------------

  void weigh(const Chunk& chunk) {
    const index_t first = chunk.list == nullptr ? chunk.keys.begin / kStep : 0;
    chunk.list == nullptr ? v.hold({first, ceil_div(chunk.keys.end, kStep)}) : v.take(chunk);
    for (index_t column = 0; column < Shape::kColumns; column += 2) {
      const Range steps = scores.steps_of_two(column);
      if (started) rescale(column), rescale(column + 1);
      for (index_t n = 0; n < width; n += kStep) weigh(first, steps, column, n);
    }
  }

  void rescale(index_t column) const {
    const auto by = S::load(factor + column * kLanes);
    if (S::all_zero(S::sub(by, S::splat(1)))) return;
    for (float *to = sums + column * kLanes, *end = to + width * kQueries; to < end; to += kQueries) S::store(to, S::mul(S::load(to), by));
  }

  // Two tiles of v's columns and two of queries; in pieces where the slots of v begin anew.
  void weigh(index_t first, Range steps, index_t column, index_t n) const {
    Sums<float> to{sums + n * kQueries + column * kLanes, kQueries, started ? Start::keep : Start::clear};
    const index_t tiles = smaller(2, (width - n) / kTile);
    index_t s = steps.begin;
    do {
      const index_t count = smaller(steps.end - s, v.slots - (first + s) % v.slots);
      TileOperand a = v.operand(first + s);
      a.data = a.at(0, n / kTile);
      *block.multiply_adds +=
          add_tiles<S>(tiles, 2, a, pairs_in_rows(tile + s * kStep * kQueries + column * kLanes, 2 * kQueries), count, to);
      to.start = Start::keep, s += count;
    } while (s < steps.end);
  }

  void add_not_finite(const Chunk& chunk) const {
    const Matrix2<const bf16> values(block.v);
    for (index_t c = 0; c < chunk.size(); ++c)
      for (index_t n = 0; n < block.value_dim; ++n) {
        const bf16 x = *values.at(scores.gather.position(chunk, c), n);
        for (index_t r = 0; !is_finite(x) && r < kQueries; ++r)
          if (const float weight = weight_of(c, r); weight != 0) sums[n * kQueries + r] += weight * widen(x);
      }
  }
  float weight_of(index_t c, index_t r) const {
    if (!scores.seen[r / kLanes].contains(c)) return 0;
    return widen(reinterpret_cast<const bf16*>(tile + c / 2 * 2 * kQueries + r)[c % 2]);
  }

  // ---- output -----------------------------------------------------------------------------------------------------------------------

  bool write(Range rows) const {
    bool finite = true;
    for (index_t r = 0; r < rows.size(); r += kLanes) {
      float by[kLanes] = {};
      const index_t count = smaller(kLanes, rows.size() - r);
      for (index_t i = 0; i < count; ++i) by[i] = inverse_total(block.options, head, highest[r + i], total[r + i]);
      for (index_t n = 0; n < block.value_dim; n += kStep)
        finite = write_square({rows.begin + r, rows.begin + r + count}, sums + n * kQueries + r, S::load(by), n) && finite;
    }
    return finite;
  }

  // 32 numbers of some rows.
  bool write_square(Range rows, const float* from, typename S::Vec by, index_t first) const {
    typename S::Vec square[kLanes];
    auto probe = S::zero();
#pragma GCC unroll 16
    for (index_t i = 0; i < kLanes; ++i) {
      if (first + 2 * i >= width) {
        square[i] = S::zero();
        continue;
      }
      const auto even = S::mul(S::load(from + 2 * i * kQueries), by), odd = S::mul(S::load(from + (2 * i + 1) * kQueries), by);
      probe = S::fma(S::add(even, odd), S::zero(), probe);
      square[i] = S::pairs(even, odd);
    }
    S::transpose(square);
    const Matrix2<bf16> out(head.out);
    const bool whole = out.col_stride == 1 && first + kStep <= block.value_dim;
    for (index_t row = rows.begin; row < rows.end; ++row) {
      const index_t position = block.walk.query(row);
      if (is_of_another_item(block, position)) continue;
      const auto numbers = square[row - rows.begin];
      if (whole) {
        S::store(reinterpret_cast<float*>(out.at(position, first)), numbers);
      } else {
        bf16 some[kStep];
        S::store(reinterpret_cast<float*>(some), numbers);
        for (index_t n = 0; n < smaller(kStep, block.value_dim - first); ++n) *out.at(position, first + n) = some[n];
      }
    }
    return S::all_zero(probe);
  }
};

template <HasTiles S>
void pair_attention_forward(const AttentionBlock& block) {
  if (block.few.heads > 0)
    AttentionFew<S, bf16>{block}.run();
  else
    PairForward<S>{block}.run();
}

}  // namespace
}  // namespace window_matmul::cpu
