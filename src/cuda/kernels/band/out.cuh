// src/cuda/kernels/band/out.cuh: S = band(Q Kt): a[q, slot(q, k)] = sum_n x(q, n) y(k, n), the fill in slots without a key.
//
//   128 queries x 64 keys at a time, the head dim in steps of 128 bytes; the next step's tiles are copied while this one's are multiplied.
//   In (query, key) coordinates band storage is an ordinary matrix with row stride W - 1. Its vectors are aligned in every row at once if
//   the first key of a tile is chosen well: up to 7 keys before the first that is seen. Those are computed and not stored.
//
//   shared memory   x, 4 times 16 KiB | y, 2 stages of 8 KiB             where the head dim takes at most 4 steps, x stays for all keys
#pragma once

#include "cuda/kernels/tensor_core_product.cuh"

namespace window_matmul::cuda {

template <class E>
struct BandOut {
  using Tile = Product<E>;
  static constexpr Lines kLines = Lines::along_depth;  // of both tiles
  static constexpr index_t kKept = 4;  // steps of the head dim; registers leave room for one block, so shared memory is free
  static constexpr std::uint32_t kBytesX = kTileRows * 128, kBytesY = kTileColumns * 128, kFirstY = kKept * kBytesX;
  static constexpr std::uint32_t kSharedBytes = kFirstY + 2 * kBytesY;

  const Item& item;
  const Range keys = item.band.keys_any(item.rows);
  const std::uintptr_t first_address = address_of(item.out, item.first, keys.begin, sizeof(E));
  const index_t phase = item.out.col_stride == 1 ? phase_of(first_address, item.out.row_stride, sizeof(E)) : 0;
  const std::uintptr_t alignment = row_alignment(item.out.row_stride, sizeof(E));
  const index_t steps_of_dim = larger(ceil_div(item.dim, Tile::kDepth), 1);

  struct Step {  // of a tile of keys, some depth of the head dim
    index_t key;  // the tile's first; may be before the first that is seen
    index_t depth;
    index_t number;
  };

  WINDOW_MATMUL_DEVICE std::uint32_t place_of_x(const Step& s) const {
    return static_cast<std::uint32_t>(steps_of_dim <= kKept ? s.depth : s.number % kKept) * kBytesX;
  }
  WINDOW_MATMUL_DEVICE std::uint32_t place_of_y(const Step& s) const {
    return kFirstY + static_cast<std::uint32_t>(s.number & 1) * kBytesY;
  }

  WINDOW_MATMUL_DEVICE void load(const Step& s) const {
    const index_t n = s.depth * Tile::kDepth;
    const Range ns{0, item.dim - n};
    if (steps_of_dim > kKept || s.number < steps_of_dim)
      load_tile<E, kTileRows, 128>(
          place_of_x(s), rows_of(item.x, item.first, n, sizeof(E)),
          [&](int row) { return item.rows.contains(item.first + row) ? ns : Range{}; }, [](int row) { return row; });
    load_tile<E, kTileColumns, 128>(
        place_of_y(s), rows_of(item.y, s.key, n, sizeof(E)), [&](int key) { return keys.contains(s.key + key) ? ns : Range{}; },
        [](int key) { return Tile::place_of_column(key); });
  }

  WINDOW_MATMUL_DEVICE Step after(const Step& s) const {
    return s.depth + 1 < steps_of_dim ? Step{s.key, s.depth + 1, s.number + 1} : Step{s.key + kTileColumns, 0, s.number + 1};
  }

  // Whether some row of this warp sees some key of the tile.
  WINDOW_MATMUL_DEVICE bool warp_sees(index_t key) const {
    const index_t first = item.first + thread_index() / kWarp * kWarpRows;
    const Range rows = Range{first, first + kWarpRows}.intersect(item.rows);
    return !rows.empty() && !item.band.keys_any(rows).intersect({key, key + kTileColumns}).empty();
  }

  WINDOW_MATMUL_DEVICE void run() const {
    fill();
    if (keys.empty()) return;
    Step step{keys.begin - phase, 0, 0};
    load(step);
    commit_copies();
    // The walk of the band, with `phase` keys more: they are in front, and the tiles begin as many earlier.
    const Band walked{item.band.rows, item.band.cols + phase, item.band.left, item.band.right + phase, item.band.shift};
    for_each_key_tile(walked, item.rows, kTileColumns, [&](Range, bool) {
      const bool sees = warp_sees(step.key);
      const index_t key = step.key;
      Tile tile;
      tile.clear();
      WINDOW_MATMUL_NO_UNROLL
      for (index_t depth = 0; depth < steps_of_dim; ++depth) {
        const Step next = after(step);
        if (next.key < keys.end) load(next);
        commit_copies();
        wait_copies<1>();
        sync_threads();
        if (sees) tile.template add<kLines, kLines>(place_of_x(step), place_of_y(step));
        sync_threads();
        step = next;
      }
      if (sees) store(tile, key);
    });
    wait_copies<0>();
  }

  WINDOW_MATMUL_DEVICE void store(const Tile& tile, index_t first_key) const {
    std::uint32_t again = 0;  // a bit for each run
    tile.template for_each_run<kLines>([&](int run, const Rounded<E>& sums, bool finite) {
      const index_t row = item.first + Tile::row_of(run), key = first_key + Tile::column_of(run);
      if (!item.rows.contains(row)) return;
      const Range seen = item.band.keys(row).intersect({key, key + Tile::kRun});
      if (seen.empty()) return;
      if (Tile::kSplits && !finite)
        again |= 1u << run;
      else
        store_run<E>(address_of(item.out, row, key, sizeof(E)), item.out.col_stride, alignment, {seen.begin - key, seen.end - key}, sums);
    });
    if constexpr (Tile::kSplits) {
      WINDOW_MATMUL_NO_UNROLL
      for (int run = 0; again != 0; ++run, again >>= 1)
        if ((again & 1) != 0) store_again(item.first + Tile::row_of(run), first_key + Tile::column_of(run));
    }
  }

  // Where an infinity was split.
  WINDOW_MATMUL_DEVICE void store_again(index_t row, index_t first_key) const {
    const Range seen = item.band.keys(row).intersect({first_key, first_key + Tile::kRun});
    WINDOW_MATMUL_NO_UNROLL
    for (index_t key = seen.begin; key < seen.end; ++key)
      store_global(address_of(item.out, row, key, sizeof(E)), sum_again<E>(item.x, item.y, row, key, {0, item.dim}));
  }

  // A warp for each row; only those near the ends of the sequence have slots without a key.
  WINDOW_MATMUL_DEVICE void fill() const {
    const E value = rounded<E>(static_cast<typename Tile::Sum>(item.fill));
    const index_t width = item.band.width(), lane = thread_index() % kWarp;
    for (index_t row = item.rows.begin + thread_index() / kWarp; row < item.rows.end; row += kThreads / kWarp) {
      const Range slots = item.band.slots(row);
      const index_t first = item.band.first(row);
      WINDOW_MATMUL_NO_UNROLL
      for (index_t slot = lane; slot < width; slot += kWarp) {
        if (slots.contains(slot)) slot += (slots.end - slot) / kWarp * kWarp;  // over the slots that have one
        if (slot < width && !slots.contains(slot)) store_global(address_of(item.out, row, first + slot, sizeof(E)), value);
      }
    }
  }
};

template <class E>
WINDOW_MATMUL_DEVICE void band_out(const Launch& launch) {
  WINDOW_MATMUL_NO_UNROLL
  for (index_t index = block_index(); index < launch.items; index += grid_size()) {
    Item item = item_of(launch, index, sizeof(E));
    item.out = by_columns(item.out, item.band, sizeof(E));
    set_rows(item, 0);
    if (item.rows.empty()) continue;
    BandOut<E>{item}.run();
    sync_threads();  // before the next item's copies
  }
}

}  // namespace window_matmul::cuda
