// src/cuda/kernels/attention/backward_queries.cuh: d_q of a block of queries, and the four numbers of each; tiles of keys are walked.
//
//   d_q = scale sum over keys of d_S k.   The bias of a pair gets its gradient here too: each pair is met once.
//
// A log-sum-exp is rounded to a part of its size. Where that is felt, as where a bias is low for all keys that a query sees, the maximum
// and the sum are taken again, and kept apart.
#pragma once

#include "cuda/kernels/attention/backward_block.cuh"

namespace window_matmul::cuda {

template <class E, int Dim, bool Options>
struct BackwardQueries : BackwardBlock<E, Dim, false, Options> {
  using Block = BackwardBlock<E, Dim, false, Options>;
  using Block::launch, Block::item, Block::first_row, Block::walk;
  using typename Block::Shape, typename Block::Product, typename Block::Sum, typename Block::Scores, typename Block::Sums,
      typename Block::FrameOf, typename Block::Facts;

  const index_t head = item.head, key_head = item.head / launch.group;

  WINDOW_MATMUL_DEVICE index_t row_of(int h) const { return item.first + first_row + lane_index() / 4 + 8 * h; }

  struct Steps {
    const BackwardQueries& of;
    WINDOW_MATMUL_DEVICE BackwardStep first() const { return {of.walk.first(), of.head}; }
    WINDOW_MATMUL_DEVICE BackwardStep after(const BackwardStep& step) const { return {of.walk.after(step.tile), step.head}; }
    WINDOW_MATMUL_DEVICE bool is_end(const BackwardStep& step) const { return of.walk.is_end(step.tile); }
  };
  // use(tile, stage)
  template <class F>
  WINDOW_MATMUL_DEVICE void for_each_tile(F&& use) const {
    for_each_step<Shape>(
        Steps{*this},
        [&](const BackwardStep& step, std::uint32_t stage) {
          Block::load_columns(Shape::first_of(stage), launch.k, key_head, launch.dim, step.tile);
          Block::load_columns(Shape::second_of(stage), launch.v, key_head, launch.value_dim, step.tile);
        },
        [&](const BackwardStep& step, std::uint32_t stage) { use(step.tile, stage); });
  }

  WINDOW_MATMUL_DEVICE void run() {
    walk.template start<Options>();
    Block::load_rows(Shape::kFirst, launch.q, head, launch.dim);
    Block::load_rows(Shape::kSecond, launch.d_out, head, launch.value_dim);
    commit_copies();
    wait_copies<0>();
    sync_threads();
    Facts facts[2];
    take_facts(facts);
    if constexpr (Options) {
      if (launch.d_bias.address != 0) clear_slots_without_key();
    }
    Sums d_q;
    bool exactly = false;
    do {
      clear(d_q);
      for_each_tile([&](const ColumnTile& tile, std::uint32_t stage) { add_tile(d_q, tile, stage, facts, exactly); });
      clear_unseeing(d_q, facts);
      exactly = !exactly && Block::any_in_block(!Block::all_finite(d_q));
    } while (exactly);
    Block::store(d_q, launch.scale, launch.d_q, head, launch.dim);
  }

  // ---- the numbers of a query -------------------------------------------------------------------------------------------------------

  WINDOW_MATMUL_DEVICE void take_facts(Facts (&facts)[2]) const {
    Sum lse[2], delta[2];
    bool coarse = false;
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      lse[h] = item.rows.contains(row_of(h)) ? number_of(launch.lse, row_of(h)) : minus_infinity<Sum>();
      delta[h] = product_with_out(h);
      facts[h] = lse[h] == minus_infinity<Sum>() ? unseeing<Sum>() : Facts{lse[h] * static_cast<Sum>(kLog2E), 0, 1, 0};
      coarse = coarse || (lse[h] > 256 && is_finite(lse[h])) || (lse[h] < -256 && is_finite(lse[h]));
    }
    if (Block::any_in_block(coarse)) sum_again(facts, lse);
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      if (lse[h] == minus_infinity<Sum>())
        delta[h] = 0;
      else
        finish_facts(facts[h], delta[h], row_of(h));
      if (lane_index() % 4 == 0 && item.rows.contains(row_of(h))) store_facts(facts[h], delta[h], row_of(h));
    }
  }

  WINDOW_MATMUL_DEVICE Sum number_of(const Strided& from, index_t row) const {
    return load_global<Sum>(address_of(rows_of_item(from, item, head, sizeof(Sum)), row, 0, sizeof(Sum)));
  }

  // Sum of d_out * out of row g + 8 h, whose chunks its four lanes take in turn.
  WINDOW_MATMUL_DEVICE Sum product_with_out(int h) const {
    constexpr int kPerChunk = 16 / sizeof(E);
    const Operand out = rows_of_item(launch.out, item, head, sizeof(E));
    const index_t row = row_of(h), width = item.rows.contains(row) ? launch.value_dim : 0;
    const bool aligned = alignment_of(cuda::rows_of(out, item.first, 0, sizeof(E)), sizeof(E)) == 16;
    Sum sum = 0;
    WINDOW_MATMUL_NO_UNROLL
    for (int chunk = lane_index() % 4; chunk * kPerChunk < width; chunk += 4) {
      const index_t first = chunk * kPerChunk;
      const std::uintptr_t from = address_of(out, row, first, sizeof(E));
      const Bytes16 a =
          aligned && first + kPerChunk <= width ? load_global<Bytes16>(from) : gather<E>(from, out.col_stride, {0, width - first});
      const auto b = load_shared<Bytes16>(Shape::kSecond + chunk_offset<Shape::kLine>(first_row + lane_index() / 4 + 8 * h, chunk));
      E x[kPerChunk], y[kPerChunk];
      __builtin_memcpy(x, &a, 16);
      __builtin_memcpy(y, &b, 16);
      WINDOW_MATMUL_UNROLL
      for (int e = 0; e < kPerChunk; ++e) sum = fused_multiply_add(static_cast<Sum>(widen(x[e])), static_cast<Sum>(widen(y[e])), sum);
    }
    sum += shuffle_xor(sum, 1);
    return sum + shuffle_xor(sum, 2);
  }

  // Not 1 - the other share: beside a share near 1 that of the other is lost.
  WINDOW_MATMUL_DEVICE void finish_facts(Facts& facts, Sum& delta, index_t row) const {
    Sum sink_share = 0;
    if (launch.sinks.address != 0) {
      const Sum sink = extra_at<E, Sum>(launch.sinks.address, times(head, launch.sinks.head), launch.sinks_are_f32);
      const Sum above = (fused_multiply_add(sink, static_cast<Sum>(kLog2E), -facts.high) - facts.low),
                less = power_of_two(above > 0 ? -above : above);
      const Sum small = less / (1 + less), large = 1 / (1 + less);
      facts.share = above > 0 ? small : large, sink_share = above > 0 ? large : small;
    }
    facts.offset = facts.share * delta - (launch.d_lse.address != 0 ? number_of(launch.d_lse, row) : Sum{0});
    delta *= -sink_share;
  }
  WINDOW_MATMUL_DEVICE void store_facts(const Facts& facts, Sum of_sink, index_t row) const {
    const std::uintptr_t to = address_of(rows_of_item(launch.facts, item, head, sizeof(Sum)), row, 0, sizeof(Sum));
    Bytes16 words[sizeof(Facts) / 16];
    __builtin_memcpy(words, &facts, sizeof(Facts));
    WINDOW_MATMUL_UNROLL
    for (std::uintptr_t i = 0; i < sizeof(Facts) / 16; ++i) store_global(to + 16 * i, words[i]);
    if (launch.sink_terms.address != 0)
      store_global(address_of(rows_of_item(launch.sink_terms, item, head, sizeof(Sum)), row, 0, sizeof(Sum)), of_sink);
  }

  WINDOW_MATMUL_DEVICE void sum_again(Facts (&facts)[2], const Sum (&lse)[2]) const {
    Sum highest[2] = {minus_infinity<Sum>(), minus_infinity<Sum>()}, total[2] = {0, 0};
    for_each_tile([&](const ColumnTile& tile, std::uint32_t stage) { sum_tile(highest, total, tile, stage); });
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      WINDOW_MATMUL_UNROLL
      for (int mask = 1; mask <= 2; mask *= 2) add_sums(highest[h], total[h], shuffle_xor(highest[h], mask), shuffle_xor(total[h], mask));
      const bool again = lse[h] < -256 || lse[h] > 256;
      if (again && is_finite(lse[h]) && total[h] > 0)
        facts[h].high = highest[h], facts[h].low = logarithm(total[h]) * static_cast<Sum>(kLog2E);
    }
  }
  WINDOW_MATMUL_DEVICE static void add_sums(Sum& highest, Sum& total, Sum other_highest, Sum other_total) {
    const Sum top = maximum(highest, other_highest), offset = top == minus_infinity<Sum>() ? Sum{0} : top;
    total = total * power_of_two(highest - offset) + other_total * power_of_two(other_highest - offset);
    highest = top;
  }
  WINDOW_MATMUL_DEVICE void sum_tile(Sum (&highest)[2], Sum (&total)[2], const ColumnTile& tile, std::uint32_t stage) const {
    const FrameOf frame{item, tile, first_row};
    const Groups groups = frame.groups(Shape::kColumns);
    if (groups.empty()) return;
    Scores s, slopes;
    Product::multiply(s, Shape::kFirst, first_row, Shape::first_of(stage), static_cast<int>(launch.dim), groups);
    Block::finish_scores(s, slopes, frame, head);
    for_each_score(s, [&](Sum& score, int h, int n) {
      if (!groups.has(n / 4)) return;
      const Sum before = highest[h];
      highest[h] = maximum(before, score * Block::factor);
      const Sum offset = highest[h] == minus_infinity<Sum>() ? Sum{0} : highest[h];
      total[h] = total[h] * power_of_two(before - offset) + power_of_two(fused_multiply_add(score, Block::factor, -offset));
    });
  }

  // ---- a tile of keys ---------------------------------------------------------------------------------------------------------------

  WINDOW_MATMUL_DEVICE void add_tile(Sums& d_q, const ColumnTile& tile, std::uint32_t stage, const Facts (&facts)[2], bool exactly) const {
    const FrameOf frame{item, tile, first_row};
    const Groups groups = frame.groups(Shape::kColumns);
    if (groups.empty()) return;
    Scores s, d_s, slopes;
    Product::multiply(s, Shape::kFirst, first_row, Shape::first_of(stage), static_cast<int>(launch.dim), groups);
    Product::multiply(d_s, Shape::kSecond, first_row, Shape::second_of(stage), static_cast<int>(launch.value_dim), groups);
    Block::finish_scores(s, slopes, frame, head);
    Block::drop(d_s, frame, head);
    Block::differentiate(s, d_s, [&](int h) { return facts[h]; });
    if constexpr (Options) {
      if (launch.d_bias.address != 0 && !tile.beyond && !exactly) store_d_bias(d_s, frame);
    }
    Block::multiply_with_slopes(d_s, slopes);
    Block::accumulate(d_q, d_s, Shape::first_of(stage), launch.dim, groups, exactly);
  }

  WINDOW_MATMUL_DEVICE void store_d_bias(Scores& d_s, const FrameOf& frame) const {
    for_each_slot<false>(d_s, launch.d_bias, frame, head, [&](Sum& d, index_t offset) { store_extra(d, offset); });
  }
  // Slots whose key does not exist; a warp for each query.
  WINDOW_MATMUL_DEVICE void clear_slots_without_key() const {
    const index_t width = item.band.width();
    WINDOW_MATMUL_NO_UNROLL
    for (index_t row = item.rows.begin + warp_index(); row < item.rows.end; row += Shape::kThreads / kWarp) {
      const Range slots = row < item.part.rows ? item.part.slots(row) : Range{};
      const index_t first = times(item.batch, launch.d_bias.batch) + times(head, launch.d_bias.head) +
                            times(item.rows_there.begin + item.row_position(row), launch.d_bias.row);
      WINDOW_MATMUL_NO_UNROLL
      for (index_t slot = lane_index(); slot < width; slot += kWarp)
        if (!slots.contains(slot)) store_extra(0, first + times(slot, launch.d_bias.column));
    }
  }
  WINDOW_MATMUL_DEVICE void store_extra(Sum value, index_t offset) const {
    if constexpr (sizeof(E) != 4) {
      if (launch.bias_is_f32) return store_global(launch.d_bias.address + std::uintptr_t(offset) * 4, static_cast<float>(value));
    }
    store_global(launch.d_bias.address + std::uintptr_t(offset) * sizeof(E), rounded<E>(value));
  }

  // What such a query holds may be anything.
  WINDOW_MATMUL_DEVICE static void clear_unseeing(Sums& d_q, const Facts (&facts)[2]) {
    WINDOW_MATMUL_UNROLL
    for (auto& fragment : d_q) {
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < 4; ++i) fragment[i] = facts[i / 2].high == -minus_infinity<Sum>() ? Sum{0} : fragment[i];
    }
  }
};

template <class E, int Dim, bool Options>
struct BackwardQueriesKernel {
  using Shape = BackwardShape<E, Dim>;
  static constexpr int kThreads = Shape::kThreads, kBlocksAtOnce = 1;
  static constexpr std::size_t kSharedBytes = Shape::kSharedBytes;

  WINDOW_MATMUL_DEVICE static void run(const AttentionLaunch& launch) {
    WINDOW_MATMUL_NO_UNROLL
    for (index_t index = block_index(); index < launch.items; index += grid_size()) {
      const AttentionItem item = attention_item<false>(launch, index, Shape::kRows);
      if (item.rows.empty()) continue;
      BackwardQueries<E, Dim, Options> kernel{{launch, item}};
      kernel.run();
      sync_threads();  // before the next item's copies
    }
  }
};

}  // namespace window_matmul::cuda
