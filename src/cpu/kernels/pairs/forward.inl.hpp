// src/cpu/kernels/pairs/forward.inl.hpp: out = softmax(scores) v and its log-sum-exp in bf16, on tiles.
//
//   O^T = O^T 2^(m - m') + vT P^T        sums are [Dv][queries]: a row a number of v, a lane a query, as the scores are
//
// What is not finite in v is taken out of the product where an output is not finite, and added by hand to the queries that give it a
// weight. Rows near the ends of the range are written again by attention/forward.inl.hpp; and so is whatever asks for natural units.
#pragma once

#include "cpu/kernels/attention/forward.inl.hpp"
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
  PairScores<S, Shape> scores{{block, queries, tile, nullptr, ahead}, copied};
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
      if (!attend(rows, false)) attend_exactly(rows);
      if (!are_near<S>(highest, total, rows.size())) rewrite(rows);
    }
    S::Tiles::release();
  }

  void attend_exactly(Range rows) {  // in the place of what was written
    v.forget(true);
    attend(rows, true);
    v.forget(false);
  }

  void rewrite(Range rows) {
    float numbers[2][kQueries];  // scratch is the same
    for (index_t r = 0; r < kQueries; ++r) numbers[0][r] = highest[r], numbers[1][r] = total[r];
    AttentionForward<S, bf16>{block}.rewrite(rows, numbers[0], numbers[1], true);
    v.forget(false);
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
    if (head.lse.address != 0) write_lse(rows);
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
      TileOperand weights = pairs_in_rows(tile + s * kStep * kQueries + column * kLanes, 2 * kQueries);
      weights.low = 4 * kQueries;
      *block.multiply_adds += add_tiles<S>(tiles, 2, v.operand(first + s).from(0, n / kTile), weights, count, to);
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
    const float* const pair = tile + c / 2 * 2 * kQueries + r;
    return widen(reinterpret_cast<const bf16*>(pair)[c % 2]) + widen(reinterpret_cast<const bf16*>(pair + kQueries)[c % 2]);
  }

  // ---- output -----------------------------------------------------------------------------------------------------------------------

  void write_lse(Range rows) const {
    const Matrix2<float> lse(head.lse);
    for (index_t r = 0; r < kQueries; ++r) factor[r] = log_sum_exp(highest[r], total[r], false);
    for (index_t r = 0; r < rows.size(); ++r)
      if (const index_t position = block.walk.query(rows.begin + r); !is_of_another_item(block, position)) *lse.at(position, 0) = factor[r];
  }

  bool write(Range rows) const {
    bool finite = true;
    for (index_t r = 0; r < rows.size(); r += kLanes) {
      float by[kLanes] = {};
      const index_t count = smaller(kLanes, rows.size() - r);
      for (index_t i = 0; i < count; ++i) by[i] = inverse_total(block.options, head, highest[r + i], total[r + i], false);
      const Range some{rows.begin + r, rows.begin + r + count};
      const bool wide = block.options.out_is_f32;
      for (index_t n = 0; n < block.value_dim; n += wide ? kTile : kStep) {
        const float* const from = sums + n * kQueries + r;
        finite = (wide ? write_wide_square(some, from, S::load(by), n) : write_square(some, from, S::load(by), n)) && finite;
      }
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
    write_rows<bf16>(rows, square, first);
    return S::all_zero(probe);
  }

  // 16 of them, in fp32.
  bool write_wide_square(Range rows, const float* from, typename S::Vec by, index_t first) const {
    typename S::Vec square[kLanes];
    auto probe = S::zero();
#pragma GCC unroll 16
    for (index_t i = 0; i < kLanes; ++i) {
      square[i] = S::mul(S::load(from + i * kQueries), by);
      probe = S::fma(square[i], S::zero(), probe);
    }
    S::transpose(square);
    write_rows<float>(rows, square, first);
    return S::all_zero(probe);
  }

  template <class Out>
  void write_rows(Range rows, const typename S::Vec (&numbers)[kLanes], index_t first) const {
    constexpr index_t kNumbers = 4 * kLanes / static_cast<index_t>(sizeof(Out));
    const Matrix2<Out> out(head.out);
    const bool whole = out.col_stride == 1 && first + kNumbers <= block.value_dim;
    for (index_t row = rows.begin; row < rows.end; ++row) {
      const index_t position = block.walk.query(row);
      if (is_of_another_item(block, position)) continue;
      if (whole) {
        S::store(reinterpret_cast<float*>(out.at(position, first)), numbers[row - rows.begin]);
      } else {
        Out some[kNumbers];
        S::store(reinterpret_cast<float*>(some), numbers[row - rows.begin]);
        for (index_t n = 0; n < smaller(kNumbers, block.value_dim - first); ++n) *out.at(position, first + n) = some[n];
      }
    }
  }
};

template <HasTiles S>
void pair_attention_forward(const AttentionBlock& block) {
  if (block.few.heads > 0 || block.options.is_natural)
    attention_forward<S, bf16>(block);
  else
    PairForward<S>{block}.run();
}

}  // namespace
}  // namespace window_matmul::cpu
