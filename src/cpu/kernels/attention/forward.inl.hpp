// src/cpu/kernels/attention/forward.inl.hpp: out = softmax(scores) v and its log-sum-exp, chunk by chunk of keys with a running maximum.
//
//   O = O 2^(m - m') + P v       out = O / l, lse = (m + log2 l) ln 2       (m, l and P: attention/softmax.inl.hpp)
//
// The factor 2^(m - m') costs nothing: it is multiplied in as the sums are loaded. P is zero where nothing is seen, and zero times infinity
// is NaN: if an output is not finite, its block is done again without the zeros. So a weight of exactly zero adds nothing, whatever v
// holds.
#pragma once

#include "cpu/kernels/attention/dropout.inl.hpp"
#include "cpu/kernels/attention/few.inl.hpp"
#include "cpu/kernels/attention/keys.inl.hpp"
#include "cpu/kernels/attention/softmax.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct AttentionForward {
  using T = typename S::Scalar;
  using Shape = ForwardShape<S>;
  static constexpr index_t kQueries = Shape::kQueries, kChunk = Shape::kChunk, kLanes = S::kLanes;

  const AttentionBlock& block;
  const AttentionHead& head = block.heads[0];
  // Scratch: transposed queries [D][kQueries], scores [kChunk][kQueries], sums of O [kQueries][width], packed rows of k and of v, and
  // a number a query: the maximum m, the sum l, the factor.
  const index_t width = round_up(block.value_dim, kLanes);
  T* const queries = static_cast<T*>(block.scratch);
  T* const tile = queries + block.dim * kQueries + kMaxLanes;
  T* const sums = tile + kChunk * kQueries;
  T* const packed_k = sums + kQueries * width;
  T* const packed_v = packed_k + kChunk * padded(block.dim);
  T* const highest = packed_v + kChunk * padded(block.value_dim);
  T* const total = highest + kQueries;
  T* const factor = total + kQueries;
  Prefetcher ahead{};
  Scores<S, E, Shape> scores{block, queries, tile, nullptr, ahead};
  const OnlineSoftmax<S, Scores<S, E, Shape>> softmax{scores, highest, total, factor};
  const Keys<S, E> key_rows{scores.gather, block.k, block.dim, block.held_k, packed_k};
  const Keys<S, E> value_rows{scores.gather, block.v, block.value_dim, block.held_v, packed_v};
  bool started = false;
  const bool* rewritten = nullptr;  // which rows of the block are written; null: all

  void run() {
    for (index_t row = block.rows.begin; row < block.rows.end; row += kQueries) {
      const Range rows{row, smaller(row + kQueries, block.rows.end)};
      if (all_of_another_item(block, rows)) continue;
      scores.natural = block.options.is_natural, rewritten = nullptr;
      scores.take_queries(head, rows, packed_k);
      queue_next_block<E>(block, rows, block.walk.band.keys_any(rows).size() / Shape::kKeys, &ahead);
      if (!attend(rows, false, block.options.is_wide)) attend(rows, true, block.options.is_wide);  // in the place of what was written
      if (!are_near<S>(highest, total, rows.size())) rewrite(rows, highest, total, kInPairs<S, E>);
    }
  }

  // False where an output is not finite.
  bool attend(Range rows, bool exactly, bool wide) {
    started = false;
    softmax.start();
    for_each_chunk(scores, rows, [&](const Chunk& chunk) {
      if constexpr (kInPairs<S, E>)
        scores.compute(chunk, scores.keys(block.k, chunk, block.dim, packed_k), wide);
      else
        scores.compute(chunk, key_rows.rows(chunk, false), wide);
      softmax.exponentiate();
      if (block.options.dropout_p > 0) drop();
      weigh(chunk, rows, exactly);
      started = true;
    });
    if (!started) fill_row(T{0}, sums, 1, {0, kQueries * width});
    if (head.lse.address != 0) write_lse(rows);
    return write(rows);
  }

  // Rows near the ends of the range: in natural units, and with wide products where the operands ask for it. What was found may be by
  // products without their scale.
  void rewrite(Range rows, const T* found_highest, const T* found_total, bool without_scale) {
    if (block.options.is_wide) return;
    scores.head = &head, scores.rows = rows;
    Largest<S> queries_given, keys_given;
    for (index_t row = rows.begin; row < rows.end; ++row)
      add_row(scores.gather, head.q, block.walk.query(row), block.dim, packed_k, &queries_given);
    for_each_chunk(scores, rows, [&](const Chunk& chunk) { add_keys(block, scores.gather, chunk, packed_k, &keys_given); });
    const T query = queries_given.value(), key = keys_given.value();
    bool which[kQueries];
    const bool wide = needs_wide(block.options, block.dim, query, key) || (without_scale && are_large(block.dim, query, key));
    if ((scores.natural && !wide) || !is_worth_while(query, key, wide, found_highest, found_total, rows.size(), which)) return;
    scores.natural = true, rewritten = which;
    scores.take_queries(head, rows, packed_k);
    if (!attend(rows, false, wide)) attend(rows, true, wide);
  }

  // ---- phases -----------------------------------------------------------------------------------------------------------------------

  void drop() const {
    Dropout<S, Scores<S, E, Shape>>(scores).for_each_seen([&](index_t c, index_t v, typename S::Vec gains) {
      const auto weight = S::load(scores.at(c, v));  // may be NaN
      S::store(scores.at(c, v), S::where_less(S::zero(), gains, S::mul(weight, gains), S::zero()));
    });
  }

  void weigh(const Chunk& chunk, Range rows, bool exactly) const {
    const KeyRows<T> v = value_rows.rows(chunk, true);
    for (index_t r = 0; r < rows.size(); r += S::kTileRows) {
      const Range some{rows.begin + r, smaller(rows.begin + r + S::kTileRows, rows.end)};
      const Range keys = scores.seen_by(some);
      if (keys.empty() && started) continue;
      const Scalars<T> weights{tile + keys.begin * kQueries + r, 1, kQueries};
      const Sums<T> to{sums + r * width, width, started ? Start::scale : Start::clear, factor + r};
      *block.multiply_adds +=
          add_row_tile<S>(some.size(), block.value_dim, weights, {v.row(keys.begin), v.row_stride}, keys.size(), to, exactly);
    }
  }

  // ---- output -----------------------------------------------------------------------------------------------------------------------

  bool write(Range rows) const {
    bool finite = true;
    for (index_t r = 0; r < rows.size(); ++r) {
      const index_t position = block.walk.query(rows.begin + r);
      if (is_of_another_item(block, position) || is_left(r)) continue;
      const T by = inverse_total(block.options, head, highest[r], total[r], scores.natural);
      finite = write_output<S, E>(block.options, sums + r * width, block.value_dim, by, head.out, position) && finite;
    }
    return finite;
  }

  bool is_left(index_t r) const { return rewritten != nullptr && !rewritten[r]; }

  void write_lse(Range rows) const {
    const Matrix2<T> lse(head.lse);
    for (index_t r = 0; r < kQueries; ++r) factor[r] = log_sum_exp(highest[r], total[r], scores.natural);
    for (index_t r = 0; r < rows.size(); ++r) {
      const index_t position = block.walk.query(rows.begin + r);
      if (is_of_another_item(block, position) || is_left(r)) continue;
      *lse.at(position, 0) = factor[r];
      if (block.options.splits_lse) write_split(highest[r], total[r], lse.at(position, 0), lse.col_stride);
    }
  }
};

template <Simd S, class E>
void attention_forward(const AttentionBlock& block) {
  if (block.few.heads > 0)
    AttentionFew<S, E>{{block}}.run();
  else
    AttentionForward<S, E>{block}.run();
}

}  // namespace
}  // namespace window_matmul::cpu
