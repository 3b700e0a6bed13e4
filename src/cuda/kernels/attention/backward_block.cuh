// src/cuda/kernels/attention/backward_block.cuh: what both backward kernels share: tiles in shared memory, a tile's P and d_S, stored sums.
//
//   P = 2^(scores - high - low)      d_P = d_out vT      d_S = P (share d_P - offset) times the softcap's slope
//
// Of a query: high + low is its log-sum-exp in units of log 2, share what the sink leaves to the keys, offset = share * sum of d_out * out
// - d_lse. These four numbers are computed by the kernel that walks keys, and read by the one that walks queries. Weights of d_v are share
// P. Dropout multiplies d_P and the weights by its gain, or by 0. Weights and d_S are rounded to the elements' type before they are
// multiplied, as q, k, v and d_out are given.
//
//   shared memory   two tiles of rows | stages of: two tiles of columns, and where these are queries their numbers | flags
#pragma once

#include "cuda/kernels/attention/backward_items.cuh"
#include "cuda/kernels/attention/backward_shape.hpp"
#include "cuda/kernels/attention/careful_product.cuh"
#include "cuda/kernels/attention/walk.cuh"
#include "cuda/kernels/store_run.cuh"

namespace window_matmul::cuda {

template <class E, int Dim, bool Options>
struct BackwardShape {
  static constexpr BackwardTiles kTiles{Dim * int{sizeof(E)}, Options};
  static constexpr int kLine = kTiles.line, kRows = kTiles.rows, kColumns = kTiles.columns, kStages = kTiles.stages;
  static constexpr int kThreads = kTiles.threads();
  static constexpr std::uint32_t kFirst = 0, kSecond = kTiles.bytes_of_rows();  // tiles of rows
  static constexpr std::uint32_t kFlags = kTiles.flags();  // a word for each warp
  static constexpr std::size_t kSharedBytes = kTiles.shared_bytes();

  WINDOW_MATMUL_DEVICE static std::uint32_t first_of(std::uint32_t stage) { return kTiles.first_stage() + stage * kTiles.bytes_of_stage(); }
  WINDOW_MATMUL_DEVICE static std::uint32_t second_of(std::uint32_t stage) { return first_of(stage) + kTiles.bytes_of_columns(); }
  WINDOW_MATMUL_DEVICE static std::uint32_t facts_of(std::uint32_t stage) { return second_of(stage) + kTiles.bytes_of_columns(); }
};

// A tile of columns with one of the query heads that share keys.
struct BackwardStep {
  ColumnTile tile;
  index_t head;
};

// Calls kernel.use(step, stage, state) for each step from first() on, when kernel.load(step, stage) has landed; where there are two stages,
// the next step's copies are on their way meanwhile. (Each of these is inlined once: a lambda of this size might not be.)
template <class Kernel, class State>
WINDOW_MATMUL_DEVICE void for_each_step(const Kernel& kernel, State& state) {
  constexpr bool kAhead = Kernel::Shape::kStages == 2;
  BackwardStep step = kernel.first(), loaded = step;
  bool landed = !kAhead;  // something is there to be used
  std::uint32_t stage = 0;
  WINDOW_MATMUL_NO_UNROLL
  while (!kernel.is_end(step) || (kAhead && landed)) {
    if (!kernel.is_end(step)) kernel.load(step, stage);
    commit_copies();
    if (landed) {
      wait_copies<kAhead ? 1 : 0>();
      sync_threads();
      kernel.use(kAhead ? loaded : step, kAhead ? stage ^ 1 : stage, state);
      sync_threads();
    }
    if constexpr (kAhead) landed = !kernel.is_end(step), loaded = step, stage ^= 1;
    if (!kernel.is_end(step)) step = kernel.after(step);
  }
  wait_copies<0>();
}

template <class Sum>
struct alignas(16) QueryFacts {
  Sum high, low, share, offset;
};
template <class Sum>
WINDOW_MATMUL_DEVICE QueryFacts<Sum> unseeing() {  // of a query that sees nothing: its P is 0
  return {-minus_infinity<Sum>(), 0, 1, 0};
}

// ByKeys: rows are keys. Options: any that asks something of single scores.
template <class E, int Dim, bool ByKeys, bool Options>
struct BackwardBlock {
  using Shape = BackwardShape<E, Dim, Options>;
  using Product = WarpProduct<E, Dim, Shape::kColumns>;
  using Sum = typename Product::Sum;
  using Scores = typename Product::Scores;
  // What is summed at a time: columns of the head dim that take 64 registers, or 128 for both sums of keys; 32 in fp64, whose exponentials
  // take many.
  static constexpr int kMost = sizeof(Sum) == 8 ? 32 : 128, kPanel = Dim < kMost ? Dim : kMost;
  using Panel = WarpProduct<E, kPanel, Shape::kColumns, Shape::kLine>;
  using Sums = typename Panel::Sums;
  using FrameOf = Frame<ByKeys>;
  using Facts = QueryFacts<Sum>;
  static constexpr int kFragments = Product::kFragments;

  const AttentionLaunch& launch;
  const AttentionItem& item;
  const int first_row = warp_index() * kWarpRows;
  // Where nothing but the scale is between products and P, it is multiplied with as the log-sum-exp is subtracted.
  const Sum factor = Options ? Sum{1} : static_cast<Sum>(launch.scale * kLog2E);
  Walk<ByKeys, Shape::kColumns> walk{launch, item, {}};

  // ---- tiles ------------------------------------------------------------------------------------------------------------------------

  // Of two tensors, one after the other: the text is there once.
  WINDOW_MATMUL_DEVICE void load_rows(const Strided& first, const Strided& second, index_t head, int count = 2) const {
    WINDOW_MATMUL_NO_UNROLL
    for (int n = 0; n < count; ++n) {
      const Strided& from = n == 0 ? first : second;
      const index_t width = n == 0 ? launch.dim : launch.value_dim;
      load_lines<Shape::kRows>(
          n == 0 ? Shape::kFirst : Shape::kSecond, !ByKeys && n == 1 && launch.wide_out, false,
          [&](std::uintptr_t element) { return cuda::rows_of(rows_of_item(from, item, head, element), item.first, 0, element); },
          [&](int r) { return item.rows.contains(item.first + r) ? Range{0, width} : Range{}; });
    }
  }
  // What is hidden from all rows is a line of zeros, whatever it holds.
  WINDOW_MATMUL_DEVICE bool is_loaded(const ColumnTile& tile, int c) const {
    if constexpr (Options) {
      if (!walk.has(tile, c)) return false;
      const index_t position = tile.beyond ? tile.first + c : item.column_position(tile.first + c);
      return ByKeys || !launch.key_mask.is_used() || holds(launch.key_mask, item, item.columns_there, position);
    } else {
      return walk.columns.contains(tile.first + c);
    }
  }
  WINDOW_MATMUL_DEVICE void load_columns(const Strided& first, const Strided& second, index_t head, const ColumnTile& tile,
                                         std::uint32_t stage) const {
    const bool all_seen =
        !(Options && (tile.beyond || launch.key_mask.is_used())) && walk.columns.contains(Range{tile.first, tile.first + Shape::kColumns});
    WINDOW_MATMUL_NO_UNROLL
    for (int n = 0; n < 2; ++n) {
      const Strided& from = n == 0 ? first : second;
      const index_t width = n == 0 ? launch.dim : launch.value_dim;
      const auto source = [&](std::uintptr_t element) {
        const Operand columns =
            Options && tile.beyond ? column_positions_of(from, item, head, element) : columns_of_item(from, item, head, element);
        return cuda::rows_of(columns, tile.first, 0, element);
      };
      load_lines<Shape::kColumns>(n == 0 ? Shape::first_of(stage) : Shape::second_of(stage), ByKeys && n == 1 && launch.wide_out,
                                  all_seen && width == Dim, source, [&](int c) { return is_loaded(tile, c) ? Range{0, width} : Range{}; });
    }
  }
  // wide: d_out in fp32 beside halves, to which it is rounded.  source(bytes of an element)
  template <int Lines, class SourceOf, class Seen>
  WINDOW_MATMUL_DEVICE static void load_lines(std::uint32_t to, bool wide, bool whole, SourceOf&& source, Seen&& seen) {
    if constexpr (Options && sizeof(E) == 2) {
      if (wide) return load_narrowed<Lines>(to, source(sizeof(float)), seen);
    }
    const Source from = source(sizeof(E));
    if constexpr (sizeof(E) == 2 && Lines * Shape::kLine / 16 >= Shape::kThreads) {
      if (whole && alignment_of(from, sizeof(E)) == 16) return load_whole_tile<E, Lines, Shape::kLine, Shape::kThreads>(to, from);
    }
    load_tile<E, Lines, Shape::kLine, Shape::kThreads>(to, from, seen, [](int line) { return line; });
  }
  template <int Lines, class Seen>
  WINDOW_MATMUL_DEVICE static void load_narrowed(std::uint32_t to, const Source& from, Seen&& seen) {
    constexpr int kChunks = Shape::kLine / 16;
    WINDOW_MATMUL_NO_UNROLL
    for (int n = thread_index(); n < Lines * kChunks; n += Shape::kThreads) {
      const int line = n / kChunks, chunk = n % kChunks;
      const Range exist = seen(line);
      float numbers[8];
      WINDOW_MATMUL_UNROLL
      for (int e = 0; e < 8; ++e) {
        const index_t at = 8 * chunk + e;
        const std::uintptr_t offset = std::uintptr_t(times(line, from.line_stride) + times(at, from.element_stride)) * sizeof(float);
        numbers[e] = exist.contains(at) ? load_global<float>(from.address + offset) : 0;
      }
      const Rounded<E> rounded(numbers);
      Bytes16 bytes;
      __builtin_memcpy(&bytes, rounded.e, 16);
      store_shared(to + chunk_offset<Shape::kLine>(line, chunk), bytes);
    }
  }

  // ---- a tile of a warp -------------------------------------------------------------------------------------------------------------

  // Products become scores; -inf where nothing is seen.
  WINDOW_MATMUL_DEVICE void finish_scores(Scores& s, const FrameOf& frame, index_t head) const {
    if constexpr (Options) {
      scale_and_cap(s, launch.scale, launch.softcap);
      if (launch.bias.address != 0 && !frame.tile.beyond) add_bias<E>(s, launch, frame, head);
      if (launch.key_mask.is_used()) mask_keys(s, launch, frame);
      if (frame.tile.beyond) return mask_beyond(s, launch, frame);
    }
    if (frame.needs_mask(Shape::kColumns)) mask_band(s, frame);
  }
  // The gradients of capped scores become those of scores. What the cap was given is computed again, in `scores`: there are no registers to
  // keep it.
  WINDOW_MATMUL_DEVICE void multiply_with_slopes(Scores& d_s, Scores& scores, std::uint32_t stage, const Groups& groups) const {
    if constexpr (Options) {
      if (launch.softcap == 0) return;
      Product::multiply(scores, Shape::kFirst, first_row, Shape::first_of(stage), static_cast<int>(launch.dim), groups);
      const Sum inner = static_cast<Sum>(launch.scale / launch.softcap);
      for_each_fragment(scores, [&](Sum(&four)[4], int) {
        WINDOW_MATMUL_UNROLL
        for (Sum& score : four) {
          const Sum t = hyperbolic_tangent(score * inner);
          score = fused_multiply_add(-t, t, Sum{1});
        }
      });
      for_each_score(d_s, [&](Sum& d, int h, int n) { d = d == 0 ? d : d * scores[n / 2][2 * h + n % 2]; });  // NaN where nothing is seen
    }
  }

  WINDOW_MATMUL_DEVICE void drop(Scores& x, const FrameOf& frame, index_t head) const {
    if constexpr (Options) {
      if (launch.threshold == 0) return;
      const Sum gain = static_cast<Sum>(launch.gain);
      for_each_score(x, [&](Sum& value, int, int) { value *= gain; });
      for_each_dropped(x, launch, frame, head, seed_of(launch), [](Sum& value) { value = 0; });
    }
  }

  // s: scores, becomes share P.  d_p: becomes d_S, the gradient of the scores as the bias has it.  facts_of(number): of a row's query, or
  // of a column's.
  template <class FactsOf>
  WINDOW_MATMUL_DEVICE void differentiate(Scores& s, Scores& d_p, FactsOf&& facts_of) const {
    if constexpr (sizeof(Sum) == 8) {  // exponentials of many instructions: one piece of code for all fragments
      for_each_fragment(s, [&](Sum(&scores)[4], int fragment) {
        WINDOW_MATMUL_UNROLL
        for (int i = 0; i < 4; ++i) {
          const Facts facts = facts_of(ByKeys ? 2 * fragment + i % 2 : i / 2);
          differentiate(scores[i], d_p[0][i], facts);
        }
        rotate(d_p);
      });
    } else {
      WINDOW_MATMUL_UNROLL
      for (int n = 0; n < 2 * kFragments; ++n) {
        Facts facts;
        if constexpr (ByKeys) facts = facts_of(n);
        WINDOW_MATMUL_UNROLL
        for (int h = 0; h < 2; ++h) {
          if constexpr (!ByKeys) facts = facts_of(h);
          differentiate(s[n / 2][2 * h + n % 2], d_p[n / 2][2 * h + n % 2], facts);
        }
      }
    }
  }
  WINDOW_MATMUL_DEVICE void differentiate(Sum& score, Sum& d, const Facts& facts) const {
    const Sum p = power_of_two(fused_multiply_add(score, factor, -facts.high) - facts.low);
    d = p > 0 ? p * fused_multiply_add(facts.share, d, -facts.offset) : p;  // whatever d is where nothing is seen
    score = facts.share * p;
  }

  // exactly: what a row does not see has weight zero, and zero times infinity, which another may see, is NaN: such products are left out.
  WINDOW_MATMUL_DEVICE static void accumulate(Sums& sums, Scores& weights, std::uint32_t tile, index_t width, int panel,
                                              const Groups& groups, bool exactly) {
    const std::uint32_t lines = tile + static_cast<std::uint32_t>(panel * kPanel * int{sizeof(E)});
    if (exactly)
      accumulate_what_counts<E, Panel, kPanel>(sums, weights, lines);
    else
      Panel::accumulate(sums, weights, lines, static_cast<int>(width) - panel * kPanel, groups);
  }

  WINDOW_MATMUL_DEVICE static bool any_in_block(bool mine) {
    std::uint32_t any = mine ? 1 : 0;
    WINDOW_MATMUL_UNROLL
    for (int mask = 1; mask < kWarp; mask *= 2) any |= shuffle_xor(any, mask);
    if (lane_index() == 0) store_shared(Shape::kFlags + static_cast<std::uint32_t>(warp_index()) * 4, any);
    sync_threads();
    any = 0;
    WINDOW_MATMUL_UNROLL
    for (std::uint32_t w = 0; w < Shape::kThreads / kWarp; ++w) any |= load_shared<std::uint32_t>(Shape::kFlags + w * 4);
    sync_threads();
    return any != 0;
  }

  // ---- results ----------------------------------------------------------------------------------------------------------------------

  WINDOW_MATMUL_DEVICE void store(Sums& sums, double factor_of_all, const Strided& to, index_t head, index_t width, int panel) const {
    if (to.address == 0) return;
    const Sum factors[2] = {static_cast<Sum>(factor_of_all), static_cast<Sum>(factor_of_all)};
    scale_rows(sums, factors);
    const Operand rows = rows_of_item(to, item, head, sizeof(E));
    const std::uintptr_t alignment = alignment_of(cuda::rows_of(rows, item.first, 0, sizeof(E)), sizeof(E));
    Panel::template for_each_run<E>(sums, [&](int h, int column_of_panel, const Rounded<E>& run) {
      const index_t column = panel * kPanel + column_of_panel;
      const index_t row = item.first + first_row + lane_index() / 4 + 8 * h;
      const Range exist = Range{0, width - column}.intersect({0, Rounded<E>::kCount});
      if (!item.rows.contains(row) || exist.empty()) return;
      store_run<E>(address_of(rows, row, column, sizeof(E)), rows.col_stride, alignment, exist, run);
    });
  }
};

}  // namespace window_matmul::cuda
