// src/cuda/kernels/attention/forward.cuh: out = softmax(scores) v and the log-sum-exp, by a running maximum over tiles of keys.
//
//   128 queries a block, 16 a warp; S = Q K^T and P stay in registers. Keys come in tiles from the first that the block sees on, two stages
//   of them where lines are short; a warp leaves out groups of 16 keys that its rows do not see, and masks only the tiles that the band's
//   edge cuts. Scores are in units of log 2, sums in fp32 (fp64). P is rounded to the type of v for its product, not for the sum it is
//   divided by. What a row does not see has weight zero, and zero times infinity is NaN: where a sum is not finite, the block is done again
//   without such products, by the text with options.
//
//   shared memory   q, 128 lines | k, a tile for each stage | v, likewise | what is kept of the item      (AttentionShape)
#pragma once

#include "cuda/kernels/attention/careful_product.cuh"
#include "cuda/kernels/attention/results.cuh"
#include "cuda/kernels/attention/running_softmax.cuh"
#include "cuda/kernels/attention/walk.cuh"

namespace window_matmul::cuda {

template <class E, int Dim, bool Options>
struct AttentionForward {
  using Shape = AttentionShape<E, Dim>;
  using Product = WarpProduct<E, Dim, Shape::kColumns>;
  using Sum = typename Product::Sum;
  static constexpr int kColumns = Shape::kColumns, kStages = Shape::kStages;
  static constexpr std::uint32_t kFirstK = Shape::kBytesRows, kFirstV = kFirstK + kStages * Shape::kBytesColumns;
  static constexpr std::uint32_t kFirstKept = kFirstV + kStages * Shape::kBytesColumns;
  static constexpr std::size_t kSharedBytes = kFirstKept + kBytesKept;

  const AttentionLaunch& launch;
  const AttentionItem& item;
  const int first_row = warp_index() * kWarpRows;
  Walk<false, kColumns> walk{launch, item, {}};
  RunningSoftmax<Sum> softmax{};
  typename Product::Sums sums{};
  bool careful = false;  // a second time: some sum was not finite

  // What loads, and phases on single scores, ask of the item. With options, or beside sums of fp64, there are no registers for it: it is
  // kept in shared memory, and read again by each that asks.
  static constexpr bool kKeeps = Options || sizeof(E) == 8;
  struct Kept {
    AttentionItem item;
    index_t kv_head;
    Range columns;
    index_t beyond_begin, beyond_end, all_beyond, unused;
  };
  static_assert(sizeof(Kept) == kBytesKept);
  WINDOW_MATMUL_DEVICE Kept all_of_item() const {
    return {item, item.head / launch.group, walk.columns, walk.beyond_begin, walk.beyond_end, walk.all_beyond, 0};
  }
  WINDOW_MATMUL_DEVICE void keep() const {
    if (thread_index() == 0) store_words(kFirstKept, all_of_item());
    sync_threads();
  }
  WINDOW_MATMUL_DEVICE Kept kept() const {
    if constexpr (kKeeps)
      return load_words<Kept>(kFirstKept);
    else
      return all_of_item();
  }
  WINDOW_MATMUL_DEVICE Walk<false, kColumns> walk_of(const Kept& now) const {
    return {launch, now.item, now.columns, now.beyond_begin, now.beyond_end, now.all_beyond != 0};
  }

  WINDOW_MATMUL_DEVICE void load_queries() const {
    load_tile<E, Shape::kRows, Shape::kLine>(
        0, rows_of(rows_of_item(launch.q, item, item.head, sizeof(E)), item.first, 0, sizeof(E)),
        [&](int r) { return item.rows.contains(item.first + r) ? Range{0, launch.dim} : Range{}; }, [](int r) { return r; });
  }
  WINDOW_MATMUL_DEVICE void load_columns(const Strided& m, index_t width, const ColumnTile& tile, std::uint32_t to) const {
    const Kept now = kept();
    const Operand columns = Options && tile.beyond ? column_positions_of(m, now.item, now.kv_head, sizeof(E))
                                                   : columns_of_item(m, now.item, now.kv_head, sizeof(E));
    const Source source = rows_of(columns, tile.first, 0, sizeof(E));
    if (is_whole(now, tile) && width == Dim && alignment_of(source, sizeof(E)) == 16)
      return load_whole_tile<E, kColumns, Shape::kLine>(to, source);
    load_tile<E, kColumns, Shape::kLine>(
        to, source, [&](int c) { return is_seen(now, tile, c) ? Range{0, width} : Range{}; }, [](int c) { return c; });
  }
  // What is hidden from everybody is a line of zeros, whatever it holds.
  WINDOW_MATMUL_DEVICE bool is_seen(const Kept& now, const ColumnTile& tile, int c) const {
    if constexpr (Options) {
      if (!walk_of(now).has(tile, c)) return false;
      const index_t position = tile.beyond ? tile.first + c : now.item.column_position(tile.first + c);
      return !launch.key_mask.is_used() || holds(launch.key_mask, now.item, now.item.columns_there, position);
    } else {
      return now.columns.contains(tile.first + c);
    }
  }
  WINDOW_MATMUL_DEVICE bool is_whole(const Kept& now, const ColumnTile& tile) const {
    return !(Options && (tile.beyond || launch.key_mask.is_used())) && tile.first + kColumns <= now.columns.end;
  }
  WINDOW_MATMUL_DEVICE void load_k(const ColumnTile& tile, std::uint32_t stage) const {
    load_columns(launch.k, launch.dim, tile, kFirstK + stage * Shape::kBytesColumns);
  }
  WINDOW_MATMUL_DEVICE void load_v(const ColumnTile& tile, std::uint32_t stage) const {
    load_columns(launch.v, launch.value_dim, tile, kFirstV + stage * Shape::kBytesColumns);
  }

  // From products to scores. Returns what takes them to units of log 2.
  WINDOW_MATMUL_DEVICE Sum score(typename Product::Scores& s, const ColumnTile& tile) const {
    const Kept now = kept();
    const Frame<false> frame{now.item, tile, first_row};
    if constexpr (Options) {
      scale_and_cap(s, launch.scale, launch.softcap);
      if (launch.bias.address != 0 && !frame.tile.beyond) add_bias<E>(s, launch, frame, now.item.head);
      if (launch.key_mask.is_used()) mask_keys(s, launch, frame);
      if (frame.tile.beyond) mask_beyond(s, launch, frame);
    }
    if (!(Options && frame.tile.beyond) && frame.needs_mask(kColumns)) mask_band(s, frame);
    return Options ? Sum{1} : static_cast<Sum>(launch.scale * kLog2E);
  }

  // Scores to weights; earlier sums are brought to the new maximum.
  WINDOW_MATMUL_DEVICE void weigh(typename Product::Scores& s, const ColumnTile& tile) {
    const Sum factor = score(s, tile);
    Sum rescale[2];
    softmax.take(s, factor, rescale);
    scale_rows(sums, rescale);
    if constexpr (Options) {
      if (launch.threshold == 0) return;
      const Kept now = kept();
      const Frame<false> frame{now.item, tile, first_row};
      for_each_dropped(s, launch, frame, now.item.head, seed_of(launch), [](Sum& weight) { weight = 0; });
    }
  }
  WINDOW_MATMUL_DEVICE void accumulate(typename Product::Scores& s, std::uint32_t values, const Groups& groups) {
    if constexpr (Options) {
      if (careful) return accumulate_what_counts<E, Product, Dim>(sums, s, values);
    }
    Product::accumulate(sums, s, values, int(launch.value_dim), groups);
  }

  WINDOW_MATMUL_DEVICE void run() {
    walk.template start<Options>();
    load_queries();
    if constexpr (kKeeps) keep();
    if constexpr (Options) {
      WINDOW_MATMUL_NO_UNROLL
      for (int turn = 0; turn < 2; ++turn) {
        softmax = {};
        clear(sums);
        add_all();
        if (careful || !any_in_block(!are_finite(sums))) break;
        careful = true;
      }
    } else {
      add_all();
      if (any_in_block(!are_finite(sums))) {
        const AttentionItem now = kept().item;
        sync_threads();  // before it is kept again
        AttentionForward<E, Dim, true> again{launch, now};
        again.careful = true;
        return again.run();
      }
    }
    finish();
  }

  // Two stages: the next tiles of k and v are on their way while these are multiplied. One: the next of k while the softmax is taken and v
  // multiplied, this one's v while k is. A turn loads for the next one; the first does nothing else.
  WINDOW_MATMUL_DEVICE void add_all() {
    ColumnTile next = walk_of(kept()).before_first();
    std::uint32_t stage = 0;
    bool begun = false;
    WINDOW_MATMUL_NO_UNROLL
    while (true) {
      const ColumnTile tile = next;
      const Kept now = kept();
      next = walk_of(now).after(tile);
      const Groups groups = begun ? Frame<false>{now.item, tile, first_row}.groups(kColumns) : Groups{0, 0};
      const bool ends = walk_of(now).is_end(next);
      typename Product::Scores s;
      if (kStages == 2 && !ends) load_k(next, stage ^ 1);
      if (kStages == 2 ? !ends : begun) load_v(kStages == 2 ? next : tile, kStages == 2 ? stage ^ 1 : 0);
      commit_copies();
      wait_copies<1>();
      sync_threads();
      if (!groups.empty()) Product::multiply(s, 0, first_row, kFirstK + stage * Shape::kBytesColumns, int(launch.dim), groups);
      if constexpr (kStages == 1) {
        sync_threads();
        if (!ends) load_k(next, 0);
        commit_copies();
      }
      if (!groups.empty()) weigh(s, tile);
      if constexpr (kStages == 1) {
        wait_copies<1>();
        sync_threads();
      }
      if (!groups.empty()) accumulate(s, kFirstV + stage * Shape::kBytesColumns, groups);
      sync_threads();
      if (ends) break;
      begun = true;
      if constexpr (kStages == 2) stage ^= 1;
    }
    wait_copies<0>();
  }

  // Where the tiles of keys were, which nobody reads any more.
  WINDOW_MATMUL_DEVICE static bool any_in_block(bool mine) {
    const bool of_warp = any_of(kWarp, [&](index_t) { return mine; });
    if (lane_index() == 0) store_shared(kFirstK + static_cast<std::uint32_t>(4 * warp_index()), of_warp ? 1.0f : 0.0f);
    sync_threads();
    bool any = false;
    WINDOW_MATMUL_UNROLL
    for (std::uint32_t w = 0; w < kThreads / kWarp; ++w) any = any || load_shared<float>(kFirstK + 4 * w) != 0;
    sync_threads();
    return any;
  }

  WINDOW_MATMUL_DEVICE index_t row_of(const AttentionItem& now, int h) const { return now.first + first_row + lane_index() / 4 + 8 * h; }

  // ---- results ------------------------------------------------------------------------------------------------------------------------

  template <class Out>
  WINDOW_MATMUL_DEVICE void store(const AttentionItem& now) const {
    const Operand out = rows_of_item(launch.out, now, now.head, sizeof(Out));
    const std::uintptr_t alignment = alignment_of(rows_of(out, now.first, 0, sizeof(Out)), sizeof(Out));
    Product::template for_each_run<Out>(sums, [&](int h, int column, const Rounded<Out>& run) {
      const index_t row = row_of(now, h);
      const Range seen = Range{0, launch.value_dim - column}.intersect({0, Rounded<Out>::kCount});
      if (!now.rows.contains(row) || seen.empty()) return;
      store_run<Out>(address_of(out, row, column, sizeof(Out)), launch.out.column, alignment, seen, run);
    });
  }
  // Decoding: these keys are not all of them.
  WINDOW_MATMUL_DEVICE void store_part(const AttentionItem& now, int h, Sum highest, Sum total) const {
    const AttentionResults<E, Sum> results{launch, now};
    const index_t row = row_of(now, h);
    if (!now.rows.contains(row)) return;
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < Dim / 4; ++n)
      if (const int column = Product::column_of(n); column < launch.value_dim)
        store_global(results.part_at(row, now.split, column), sums[n / 2][2 * h + n % 2]);
    if (lane_index() % 4 != 0) return;
    store_global(results.part_at(row, now.split, launch.value_dim), highest);
    store_global(results.part_at(row, now.split, launch.value_dim + 1), total);
  }
  WINDOW_MATMUL_DEVICE void finish() {
    const AttentionItem now = kept().item;
    const AttentionResults<E, Sum> results{launch, now};
    const Sum factor = Options ? Sum{1} : static_cast<Sum>(launch.scale * kLog2E);
    Sum share[2];
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Sum total = softmax.of_four(softmax.total[h], true), highest = softmax.offset(h, factor);
      if (Options && launch.splits > 1) {
        store_part(now, h, highest, total);
        continue;
      }
      share[h] = results.share_of(highest, total);
      if (lane_index() % 4 == 0 && now.rows.contains(row_of(now, h))) results.store_lse(row_of(now, h), highest, total);
    }
    if (Options && launch.splits > 1) return;
    scale_rows(sums, share);
    if constexpr (sizeof(E) == 2) {
      if (launch.wide_out) return store<float>(now);
    }
    store<E>(now);
  }
};

template <class E, int Dim, bool Options>
struct AttentionForwardKernel {
  static constexpr int kBlocksAtOnce = 1;
  static constexpr std::size_t kSharedBytes = AttentionForward<E, Dim, Options>::kSharedBytes;

  WINDOW_MATMUL_DEVICE static void run(const AttentionLaunch& launch) {
    WINDOW_MATMUL_NO_UNROLL
    for (index_t index = block_index(); index < launch.items; index += grid_size()) {
      const AttentionItem item = attention_item<false>(launch, index, AttentionShape<E, Dim>::kRows);
      if (item.rows.empty()) continue;
      AttentionForward<E, Dim, Options> forward{launch, item};
      forward.run();
      sync_threads();  // before the next item is kept
    }
  }
};

}  // namespace window_matmul::cuda
