// src/cuda/kernels/band/in.cuh: O = S V, and C = St X by the same text: out(row, n) = sum over the row's columns c of x(row, c) y(c, n).
//
//   128 rows x 64 or 128 columns of the head dim, the columns of the band in steps of 128 bytes; the next step's tiles are copied while
//   this one's are multiplied. Band storage is read in (row, column) coordinates, where it is an ordinary matrix:
//     band_in             row = query, column = key:   row stride W - 1, column stride 1      lines of a tile: rows
//     band_in_transposed  row = key,   column = query: row stride 1,     column stride W - 1  lines of a tile: columns
//   Vectors are aligned in every line at once if the first column (row, transposed) is chosen well: up to 7 before the first that exists.
//   What a row does not see is zero in its tile. Zero times infinity is NaN: a sum that is not finite is summed again, over what its row
//   sees and nothing else.
//
//   shared memory   x, 2 stages of 16 KiB | y, 2 stages of Panels * 8 KiB
#pragma once

#include "cuda/kernels/tensor_core_product.cuh"

namespace window_matmul::cuda {

template <class E, bool Transposed, int Panels>
struct BandIn {
  using Tile = Product<E>;
  static constexpr Lines kLinesOfX = Transposed ? Lines::across_depth : Lines::along_depth, kLinesOfY = Lines::across_depth;
  static constexpr int kDepth = Tile::kDepth, kRun = Tile::kRun;
  static constexpr int kLineOfRows = kTileRows * sizeof(E), kLineOfColumns = kTileColumns * sizeof(E);
  static constexpr std::uint32_t kBytesX = kTileRows * 128, kBytesPanel = kTileColumns * 128, kBytesY = Panels * kBytesPanel;
  static constexpr std::uint32_t kFirstY = 2 * kBytesX, kSharedBytes = 2 * (kBytesX + kBytesY);

  const Item& item;
  const Range columns = item.band.keys_any(item.rows);
  const index_t phase = !Transposed && item.x.col_stride == 1
                            ? phase_of(address_of(item.x, item.first, columns.begin, sizeof(E)), item.x.row_stride, sizeof(E))
                            : 0;

  WINDOW_MATMUL_DEVICE static Range from(Range r, index_t first) { return {r.begin - first, r.end - first}; }
  static_assert(kDepth * sizeof(E) == 128);

  WINDOW_MATMUL_DEVICE void load(index_t column, index_t n, std::uint32_t stage) const {
    const auto place_of_depth = [](int line) { return Tile::place_of_depth(line); };
    if constexpr (Transposed) {
      const Band columns_see = item.band.transposed();
      load_tile<E, kDepth, kLineOfRows>(
          stage * kBytesX, columns_of(item.x, item.first, column, sizeof(E)),
          [&](int c) { return columns.contains(column + c) ? from(columns_see.keys(column + c), item.first) : Range{}; }, place_of_depth);
    } else {
      load_tile<E, kTileRows, 128>(
          stage * kBytesX, rows_of(item.x, item.first, column, sizeof(E)),
          [&](int r) { return item.rows.contains(item.first + r) ? from(item.band.keys(item.first + r), column) : Range{}; },
          [](int r) { return r; });
    }
    WINDOW_MATMUL_UNROLL
    for (int p = 0; p < Panels; ++p) {
      const Range ns{0, item.dim - n - p * kTileColumns};
      load_tile<E, kDepth, kLineOfColumns>(
          kFirstY + stage * kBytesY + static_cast<std::uint32_t>(p) * kBytesPanel, rows_of(item.y, column, n + p * kTileColumns, sizeof(E)),
          [&](int c) { return columns.contains(column + c) ? ns : Range{}; }, place_of_depth);
    }
  }

  WINDOW_MATMUL_DEVICE bool warp_sees(index_t column) const {
    const index_t first = item.first + thread_index() / kWarp * kWarpRows;
    const Range rows = Range{first, first + kWarpRows}.intersect(item.rows);
    return !rows.empty() && !item.band.keys_any(rows).intersect({column, column + kDepth}).empty();
  }

  // Columns n .. n + 64 * Panels of the head dim.
  WINDOW_MATMUL_DEVICE void run(index_t n) const {
    Tile tiles[Panels];
    WINDOW_MATMUL_UNROLL
    for (Tile& tile : tiles) tile.clear();
    index_t column = columns.begin - phase;
    std::uint32_t stage = 0;
    if (!columns.empty()) load(column, n, stage);
    commit_copies();
    // The walk of the band, with `phase` columns more: they are in front, and the tiles begin as many earlier.
    const Band walked{item.band.rows, item.band.cols + phase, item.band.left, item.band.right + phase, item.band.shift};
    for_each_key_tile(walked, item.rows, kDepth, [&](Range, bool) {
      if (column + kDepth < columns.end) load(column + kDepth, n, stage ^ 1);
      commit_copies();
      wait_copies<1>();
      sync_threads();
      if (warp_sees(column)) {
        WINDOW_MATMUL_UNROLL
        for (std::uint32_t p = 0; p < Panels; ++p)
          tiles[p].template add<kLinesOfX, kLinesOfY>(stage * kBytesX, kFirstY + stage * kBytesY + p * kBytesPanel);
      }
      sync_threads();
      column += kDepth, stage ^= 1;
    });
    wait_copies<0>();
    WINDOW_MATMUL_UNROLL
    for (int p = 0; p < Panels; ++p) store(tiles[p], n + p * kTileColumns);
  }

  WINDOW_MATMUL_DEVICE void store(const Tile& tile, index_t n) const {
    const std::uintptr_t alignment = alignment_of(rows_of(item.out, item.first, n, sizeof(E)), sizeof(E));
    std::uint32_t again = 0;  // a bit for each run
    tile.template for_each_run<kLinesOfY>([&](int run, const Rounded<E>& sums, bool finite) {
      const index_t row = item.first + Tile::row_of(run), column = n + Tile::column_of(run);
      const Range seen = Range{0, item.dim - column}.intersect({0, kRun});
      if (!item.rows.contains(row) || seen.empty()) return;
      if (finite)
        store_run<E>(address_of(item.out, row, column, sizeof(E)), item.out.col_stride, alignment, seen, sums);
      else
        again |= 1u << run;
    });
    WINDOW_MATMUL_NO_UNROLL
    for (int run = 0; again != 0; ++run, again >>= 1)
      if ((again & 1) != 0) store_again(item.first + Tile::row_of(run), n + Tile::column_of(run));
  }

  WINDOW_MATMUL_DEVICE void store_again(index_t row, index_t column) const {
    const Operand y_by_n{item.y.address, item.y.col_stride, item.y.row_stride};
    WINDOW_MATMUL_NO_UNROLL
    for (index_t n = column; n < smaller(column + kRun, item.dim); ++n)
      store_global(address_of(item.out, row, n, sizeof(E)), sum_again<E>(item.x, y_by_n, row, n, item.band.keys(row)));
  }
};

template <class E, bool Transposed, int Panels>
WINDOW_MATMUL_DEVICE void band_in(const Launch& launch) {
  WINDOW_MATMUL_NO_UNROLL
  for (index_t index = block_index(); index < launch.items; index += grid_size()) {
    Item item = item_of(launch, index, sizeof(E));
    item.x = by_columns(item.x, Transposed ? item.band.transposed() : item.band, sizeof(E));
    index_t phase = 0;
    if constexpr (Transposed) {  // rows are neighbours in memory: move the first one
      const index_t column_stride = item.x.row_stride;
      item.x = {item.x.address, item.x.col_stride, column_stride};
      if (item.x.row_stride == 1) phase = phase_of(item.x.address, column_stride, sizeof(E));
    }
    set_rows(item, phase);
    if (item.rows.empty()) continue;
    const BandIn<E, Transposed, Panels> kernel{item};
    WINDOW_MATMUL_NO_UNROLL
    for (index_t n = 0; n < item.dim; n += Panels * kTileColumns) {
      kernel.run(n);
      sync_threads();  // before the next tiles
    }
  }
}

}  // namespace window_matmul::cuda
