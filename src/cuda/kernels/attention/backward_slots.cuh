// src/cuda/kernels/attention/backward_slots.cuh: the gradients of what all queries of a head share: a bias of a number a slot, and the
// sink.
//
//   d_bias[slot] = sum of d_S over all pairs at that slot
//
// Tile n of a block of rows begins n tiles of columns behind the first key that the block's first row may see. Whatever the rows, the pairs
// of tile n lie at the same slots: the element (row r, column c) of the tile at slot n * columns + c - r. So a block takes one n, walks the
// blocks of rows of its head, and sums d_S where it is, in registers; diagonals are summed once, at the end. A last kernel adds what tiles
// and blocks have for a slot, in a fixed order.
//
//   shared memory   two tiles of rows | a stage of two tiles of columns; at the end d_S, rows x columns
#pragma once

#include "cuda/kernels/attention/backward_block.cuh"

namespace window_matmul::cuda {

template <class E, int Dim>
struct BackwardSlots : BackwardBlock<E, Dim, false, true> {
  using Block = BackwardBlock<E, Dim, false, true>;
  using Block::launch, Block::item, Block::first_row, Block::walk;
  using typename Block::Shape, typename Block::Product, typename Block::Sum, typename Block::Scores, typename Block::Facts;

  WINDOW_MATMUL_DEVICE void add(Scores& sums, index_t tile_number) {
    walk.template start<false>();
    const ColumnTile tile{item.part.first(item.first) + tile_number * Shape::kColumns, false};
    if (walk.columns.intersect({tile.first, tile.first + Shape::kColumns}).empty()) return;  // for the whole block
    Block::load_rows(launch.q, launch.d_out, item.head);
    Block::load_columns(launch.k, launch.v, item.head / launch.group, tile, 0);
    commit_copies();
    wait_copies<0>();
    sync_threads();
    add_tile(sums, {item, tile, first_row});
    sync_threads();
  }

  WINDOW_MATMUL_DEVICE void add_tile(Scores& sums, const Frame<false>& frame) const {
    const Groups groups = frame.groups(Shape::kColumns);
    if (groups.empty()) return;
    Scores s, d_s;
    Product::multiply(s, Shape::kFirst, first_row, Shape::first_of(0), static_cast<int>(launch.dim), groups);
    Product::multiply(d_s, Shape::kSecond, first_row, Shape::second_of(0), static_cast<int>(launch.value_dim), groups);
    Block::finish_scores(s, frame, item.head);
    Block::drop(d_s, frame, item.head);
    const Facts facts[2] = {facts_of(frame.row(0)), facts_of(frame.row(1))};
    Block::differentiate(s, d_s, [&](int h) { return facts[h]; });
    for_each_score(sums, [&](Sum& sum, int h, int n) { sum += d_s[n / 2][2 * h + n % 2]; });
  }
  WINDOW_MATMUL_DEVICE Facts facts_of(index_t row) const {
    if (!item.rows.contains(row)) return unseeing<Sum>();
    const std::uintptr_t from = address_of(rows_of_item(launch.facts, item, item.head, sizeof(Sum)), row, 0, sizeof(Sum));
    Bytes16 words[sizeof(Facts) / 16];
    WINDOW_MATMUL_UNROLL
    for (std::uintptr_t i = 0; i < sizeof words / 16; ++i) words[i] = load_global<Bytes16>(from + 16 * i);
    Facts facts;
    __builtin_memcpy(&facts, words, sizeof words);
    return facts;
  }
};

template <class E, int Dim>
struct BackwardSlotsKernel {
  using Shape = BackwardShape<E, Dim, true>;
  using Of = BackwardSlots<E, Dim>;
  using Sum = typename Of::Sum;
  static constexpr int kThreads = Shape::kThreads, kBlocksAtOnce = 1;
  static constexpr std::size_t kSharedBytes = Shape::kSharedBytes;
  static_assert(kSharedBytes >= Shape::kRows * Shape::kColumns * sizeof(Sum));

  // Items: splits fastest, then tiles, then heads.
  WINDOW_MATMUL_DEVICE static void run(const AttentionLaunch& launch) {
    WINDOW_MATMUL_NO_UNROLL
    for (index_t index = block_index(); index < launch.items; index += grid_size()) {
      const index_t split = index % launch.splits, tile = index / launch.splits % launch.tiles, head = index / launch.splits / launch.tiles;
      AttentionLaunch rows = launch;
      rows.splits = 1;
      const index_t blocks = blocks_of_head(rows, rows.band.rows, Shape::kRows);
      const index_t all = blocks * smaller(rows.dilation, rows.band.rows) * (rows.packed ? 1 : rows.sequences);
      typename Of::Scores sums;
      clear(sums);
      WINDOW_MATMUL_NO_UNROLL
      for (index_t n = split; n < all; n += launch.splits) {
        const AttentionItem item = attention_item<false>(rows, n % blocks + blocks * (head + rows.heads * (n / blocks)), Shape::kRows);
        if (item.rows.empty()) continue;
        Of of{{rows, item}};
        of.add(sums, tile);
      }
      store(sums, launch.partial + static_cast<std::uintptr_t>((launch.first_head + head) * launch.tiles * launch.splits +
                                                               index % (launch.tiles * launch.splits)) *
                                       Shape::kTiles.slots_of_tile() * sizeof(Sum));
    }
  }

 private:
  // Number i of the line: of the pairs with c - r = i - rows.
  WINDOW_MATMUL_DEVICE static void store(typename Of::Scores& sums, std::uintptr_t line) {
    const auto place = [](int row, int column) { return static_cast<std::uint32_t>((row * Shape::kColumns + column) * int{sizeof(Sum)}); };
    for_each_score(sums, [&](Sum& sum, int h, int n) {
      store_shared(place(warp_index() * kWarpRows + lane_index() / 4 + 8 * h, column_of_score(n)), sum);
    });
    sync_threads();
    WINDOW_MATMUL_NO_UNROLL
    for (int i = thread_index(); i < Shape::kTiles.slots_of_tile(); i += kThreads) {
      Sum sum = 0;
      WINDOW_MATMUL_NO_UNROLL
      for (int column = 0; column < Shape::kColumns; ++column)
        if (const int row = column - (i - Shape::kRows); 0 <= row && row < Shape::kRows) sum += load_shared<Sum>(place(row, column));
      store_global(line + static_cast<std::uintptr_t>(i) * sizeof(Sum), sum);
    }
    sync_threads();
  }
};

// An element of d_bias or d_sinks.
template <class E, class Sum>
WINDOW_MATMUL_DEVICE void store_extra(std::uintptr_t address, index_t offset, bool is_f32, Sum value) {
  if constexpr (sizeof(E) != 4) {
    if (is_f32) return store_global(address + std::uintptr_t(offset) * 4, static_cast<float>(value));
  }
  store_global(address + std::uintptr_t(offset) * sizeof(E), rounded<E>(value));
}

// A thread for each slot of each head: what the tiles that reach it have, split by split.
template <class E, int Dim>
struct SlotSumsKernel {
  using Shape = BackwardShape<E, Dim, true>;
  using Sum = typename BackwardSlots<E, Dim>::Sum;
  static constexpr int kThreads = cuda::kThreads, kBlocksAtOnce = 1;
  static constexpr std::size_t kSharedBytes = 0;

  WINDOW_MATMUL_DEVICE static void run(const AttentionLaunch& launch) {
    const index_t width = launch.band.width();
    WINDOW_MATMUL_NO_UNROLL
    for (index_t n = block_index() * kThreads + thread_index(); n < launch.heads * width; n += grid_size() * kThreads) {
      const index_t head = launch.first_head + n / width, slot = n % width;
      Sum sum = 0;
      WINDOW_MATMUL_NO_UNROLL
      for (index_t tile = 0; tile < launch.tiles; ++tile) {
        const index_t place = slot - tile * Shape::kColumns + Shape::kRows;
        if (place < 0 || place >= Shape::kTiles.slots_of_tile()) continue;
        WINDOW_MATMUL_NO_UNROLL
        for (index_t split = 0; split < launch.splits; ++split)
          sum += load_global<Sum>(
              launch.partial +
              static_cast<std::uintptr_t>(((head * launch.tiles + tile) * launch.splits + split) * Shape::kTiles.slots_of_tile() + place) *
                  sizeof(Sum));
      }
      store_extra<E>(launch.d_bias.address, times(head, launch.d_bias.head) + times(slot, launch.d_bias.column), launch.bias_is_f32, sum);
    }
  }
};

// A block for each head: a thread takes every kThreads-th query of all entries. (Dim: one in each file of kernels.)
template <class E, int Dim>
struct SinkSumsKernel {
  using Sum = std::conditional_t<sizeof(E) == 8, double, float>;
  static constexpr int kThreads = cuda::kThreads, kBlocksAtOnce = 1;
  static constexpr std::size_t kSharedBytes = kThreads / kWarp * sizeof(Sum);

  WINDOW_MATMUL_DEVICE static void run(const AttentionLaunch& launch) {
    const index_t batch = launch.packed ? 1 : launch.sequences, rows = launch.band.rows;
    WINDOW_MATMUL_NO_UNROLL
    for (index_t head = block_index(); head < launch.items; head += grid_size()) {
      Sum sum = 0;
      WINDOW_MATMUL_NO_UNROLL
      for (index_t n = thread_index(); n < batch * rows; n += kThreads)
        sum += load_global<Sum>(launch.sink_terms.address + static_cast<std::uintptr_t>(times(n / rows, launch.sink_terms.batch) +
                                                                                        times(head, launch.sink_terms.head) + n % rows) *
                                                                sizeof(Sum));
      WINDOW_MATMUL_UNROLL
      for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
      if (lane_index() == 0) store_shared(static_cast<std::uint32_t>(warp_index()) * std::uint32_t{sizeof(Sum)}, sum);
      sync_threads();
      if (thread_index() == 0) {
        sum = 0;
        WINDOW_MATMUL_UNROLL
        for (std::uint32_t w = 0; w < kThreads / kWarp; ++w) sum += load_shared<Sum>(w * std::uint32_t{sizeof(Sum)});
        store_extra<E>(launch.d_sinks.address, times(head, launch.d_sinks.head), launch.sinks_are_f32, sum);
      }
      sync_threads();
    }
  }
};

}  // namespace window_matmul::cuda
