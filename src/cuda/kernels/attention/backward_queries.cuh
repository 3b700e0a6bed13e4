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

  const index_t head = item.head;

  enum class Pass { sums, gradients, exactly };
  struct State {
    Pass pass = Pass::gradients;
    int panel = 0;
    Facts facts[2];  // while sums are taken again: high and low are the maximum and the sum so far, of this lane's columns
    Sums d_q;
  };

  WINDOW_MATMUL_DEVICE BackwardStep first() const { return {walk.first(), head}; }
  WINDOW_MATMUL_DEVICE BackwardStep after(const BackwardStep& step) const { return {walk.after(step.tile), head}; }
  WINDOW_MATMUL_DEVICE bool is_end(const BackwardStep& step) const { return walk.is_end(step.tile); }
  WINDOW_MATMUL_DEVICE void load(const BackwardStep& step, std::uint32_t stage) const {
    Block::load_columns(launch.k, launch.v, head / launch.group, step.tile, stage);
  }

  WINDOW_MATMUL_DEVICE void run() {
    walk.template start<Options>();
    Block::load_rows(launch.q, launch.d_out, head);
    commit_copies();
    State state;
    begin(state);
    WINDOW_MATMUL_NO_UNROLL
    for (state.panel = 0; state.panel == 0 || state.panel * Block::kPanel < launch.dim; ++state.panel) {
      add_panel(state);
      Block::store(state.d_q, launch.scale, launch.d_q, head, launch.dim, state.panel);
      state.pass = Pass::gradients;
    }
  }
  WINDOW_MATMUL_DEVICE void add_panel(State& state) const {
    WINDOW_MATMUL_NO_UNROLL
    while (true) {
      clear(state.d_q);
      for_each_step(*this, state);
      if (state.pass == Pass::sums) {
        take_sums(state.facts);
        state.pass = Pass::gradients;
        continue;
      }
      clear_unseeing(state.d_q, state.facts);
      if (state.pass == Pass::exactly || !Block::any_in_block(!are_finite(state.d_q))) return;
      state.pass = Pass::exactly;
    }
  }

  // ---- the numbers of a query -------------------------------------------------------------------------------------------------------

  WINDOW_MATMUL_DEVICE index_t row_of(int h) const { return item.first + first_row + lane_index() / 4 + 8 * h; }
  WINDOW_MATMUL_DEVICE Sum lse_of(int h) const {
    return item.rows.contains(row_of(h)) ? number_of(launch.lse, row_of(h)) : minus_infinity<Sum>();
  }

  WINDOW_MATMUL_DEVICE void begin(State& state) const {
    bool coarse = false;
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Sum lse = lse_of(h);
      state.facts[h] = {lse * static_cast<Sum>(kLog2E), 0, 1, product_with_out(h)};
      coarse = coarse || (is_finite(lse) && !(lse < 256 && lse > -256));
    }
    if (Block::any_in_block(coarse)) {
      WINDOW_MATMUL_UNROLL
      for (Facts& facts : state.facts) facts.high = minus_infinity<Sum>();
      state.pass = Pass::sums;
    } else {
      finish_facts(state.facts);
    }
    if constexpr (Options) {
      if (launch.d_bias.address != 0) clear_slots_without_key();
    }
  }
  WINDOW_MATMUL_DEVICE void take_sums(Facts (&facts)[2]) const {
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      WINDOW_MATMUL_UNROLL
      for (int mask = 1; mask <= 2; mask *= 2) add_sums(facts[h], shuffle_xor(facts[h].high, mask), shuffle_xor(facts[h].low, mask));
      const Sum lse = lse_of(h);
      const bool taken = is_finite(lse) && facts[h].low > 0;
      facts[h].high = taken ? facts[h].high : lse * static_cast<Sum>(kLog2E);
      facts[h].low = taken ? logarithm(facts[h].low) * static_cast<Sum>(kLog2E) : Sum{0};
    }
    finish_facts(facts);
  }
  WINDOW_MATMUL_DEVICE static void add_sums(Facts& facts, Sum highest, Sum total) {
    const Sum top = maximum(facts.high, highest), offset = top == minus_infinity<Sum>() ? Sum{0} : top;
    facts.low = facts.low * power_of_two(facts.high - offset) + total * power_of_two(highest - offset);
    facts.high = top;
  }

  WINDOW_MATMUL_DEVICE Sum number_of(const Strided& from, index_t row) const {
    return load_global<Sum>(address_of(rows_of_item(from, item, head, sizeof(Sum)), row, 0, sizeof(Sum)));
  }

  WINDOW_MATMUL_DEVICE Sum product_with_out(int h) const {
    if constexpr (Options && sizeof(E) == 2) {
      if (launch.wide_out) return product_with_out_of<float>(h);
    }
    return product_with_out_of<E>(h);
  }
  // Sum of d_out * out of row g + 8 h, whose chunks its four lanes take in turn.
  template <class Out>
  WINDOW_MATMUL_DEVICE Sum product_with_out_of(int h) const {
    constexpr int kPerChunk = 16 / sizeof(Out);
    const index_t row = row_of(h), width = item.rows.contains(row) ? launch.value_dim : 0;
    const auto chunk_of = [&](const Strided& from, index_t first) {
      const Operand rows = rows_of_item(from, item, head, sizeof(Out));
      const std::uintptr_t at = address_of(rows, row, first, sizeof(Out));
      const bool whole = first + kPerChunk <= width && at % 16 == 0 && rows.col_stride == 1;
      return whole ? load_global<Bytes16>(at) : gather<Out>(at, rows.col_stride, {0, width - first});
    };
    Sum sum = 0;
    WINDOW_MATMUL_NO_UNROLL
    for (index_t first = lane_index() % 4 * kPerChunk; first < width; first += 4 * kPerChunk) {
      const Bytes16 a = chunk_of(launch.out, first), b = chunk_of(launch.d_out, first);
      Out x[kPerChunk], y[kPerChunk];
      __builtin_memcpy(x, &a, 16);
      __builtin_memcpy(y, &b, 16);
      WINDOW_MATMUL_UNROLL
      for (int e = 0; e < kPerChunk; ++e) sum = fused_multiply_add(static_cast<Sum>(widen(x[e])), static_cast<Sum>(widen(y[e])), sum);
    }
    sum += shuffle_xor(sum, 1);
    return sum + shuffle_xor(sum, 2);
  }

  // The offset is the product with out so far.
  WINDOW_MATMUL_DEVICE void finish_facts(Facts (&facts)[2]) const {
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      Sum of_sink = 0;
      if (facts[h].high == minus_infinity<Sum>())
        facts[h] = unseeing<Sum>();
      else
        of_sink = finish_facts(facts[h], row_of(h));
      if (lane_index() % 4 == 0 && item.rows.contains(row_of(h))) store_facts(facts[h], of_sink, row_of(h));
    }
  }
  // Returns what the query adds to d_sinks. Not 1 - the other share: beside a share near 1 that of the other is lost.
  WINDOW_MATMUL_DEVICE Sum finish_facts(Facts& facts, index_t row) const {
    const Sum delta = facts.offset;
    Sum sink_share = 0;
    if (launch.sinks.address != 0) {
      const Sum sink = extra_at<E, Sum>(launch.sinks.address, times(head, launch.sinks.head), launch.sinks_are_f32);
      const Sum in_units = fused_multiply_add(sink, static_cast<Sum>(kLog2E), Sum{0});  // rounded, as a bias of its size is
      const Sum above = in_units - facts.high - facts.low;
      const Sum less = power_of_two(above > 0 ? -above : above), small = less / (1 + less), large = 1 / (1 + less);
      facts.share = above > 0 ? small : large, sink_share = above > 0 ? large : small;
    }
    facts.offset = facts.share * delta - (launch.d_lse.address != 0 ? number_of(launch.d_lse, row) : Sum{0});
    return -sink_share * delta;
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

  // ---- a tile of keys ---------------------------------------------------------------------------------------------------------------

  WINDOW_MATMUL_DEVICE void use(const BackwardStep& step, std::uint32_t stage, State& state) const {
    const FrameOf frame{item, step.tile, first_row};
    const Groups groups = frame.groups(Shape::kColumns);
    if (groups.empty()) return;
    Scores s, d_s;
    Product::multiply(s, Shape::kFirst, first_row, Shape::first_of(stage), static_cast<int>(launch.dim), groups);
    Block::finish_scores(s, frame, head);
    if (state.pass == Pass::sums) return sum(s, groups, state.facts);
    Product::multiply(d_s, Shape::kSecond, first_row, Shape::second_of(stage), static_cast<int>(launch.value_dim), groups);
    Block::drop(d_s, frame, head);
    Block::differentiate(s, d_s, [&](int h) { return state.facts[h]; });
    if constexpr (Options) {
      if (launch.d_bias.address != 0 && !step.tile.beyond && state.pass == Pass::gradients && state.panel == 0) store_d_bias(d_s, frame);
    }
    Block::multiply_with_slopes(d_s, s, stage, groups);
    Block::accumulate(state.d_q, d_s, Shape::first_of(stage), launch.dim, state.panel, groups, state.pass == Pass::exactly);
  }

  WINDOW_MATMUL_DEVICE void sum(Scores& s, const Groups& groups, Facts (&facts)[2]) const {
    for_each_fragment(s, [&](Sum(&scores)[4], int fragment) {
      if (!groups.has(fragment / 2)) return;
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < 4; ++i) {
        Facts& of_row = facts[i / 2];
        const Sum before = of_row.high;
        of_row.high = maximum(before, scores[i] * Block::factor);
        const Sum offset = of_row.high == minus_infinity<Sum>() ? Sum{0} : of_row.high;
        of_row.low = of_row.low * power_of_two(before - offset) + power_of_two(fused_multiply_add(scores[i], Block::factor, -offset));
      }
    });
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
struct BackwardQueriesKernel : BackwardItems<BackwardQueries<E, Dim, Options>, false> {};

}  // namespace window_matmul::cuda
