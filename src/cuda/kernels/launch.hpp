// src/cuda/kernels/launch.hpp: what a grid is told, and what each of its blocks makes of it. Plain data: passed to the kernel by value.
#pragma once

#include "window_matmul/tensor.hpp"

namespace window_matmul::cuda {

inline constexpr int kThreads = 256;
inline constexpr index_t kBlockRows =
    128;  // output rows of an item of products: the keys that two items share are read again by the second
inline constexpr index_t kMaxPhase = 7;     // elements by which the first row is moved for the sake of alignment

struct Operand {  // element (r, c) at address + (r * row_stride + c * col_stride) elements; (0, 0) itself need not exist
  std::uintptr_t address = 0;
  index_t row_stride = 0, col_stride = 0;
};

struct Launch {
  static constexpr int kMaxLeading = TensorView::kMaxRank - 2;

  Band band;                // its rows are the rows of `out`; before dilation
  bool transposed = false;  // band_in: band storage belongs to band.transposed()
  bool y_like_x = false;    // softmax_backward: y is band storage too, not (column, n)
  index_t dilation = 1, dim = 0;
  double fill = 0;
  index_t item_rows = kBlockRows;
  index_t blocks = 0, parts = 0, items = 0;  // blocks of rows in a part, parts of a head, and blocks * parts * heads
  Operand x, y, out;                         // of the first head, before dilation; y of band_out: (key, n); y of softmax: none
  int rank = 0;                              // of the leading dims
  index_t shape[kMaxLeading] = {}, step_x[kMaxLeading] = {}, step_y[kMaxLeading] = {}, step_out[kMaxLeading] = {};
};

// One work item: some rows of one band without dilation.
struct Item {
  Band band;
  Range rows;       // the output rows of this item; empty: nothing to do
  index_t first;    // the row of the tile's first line; it may lie before rows.begin
  index_t dim;
  double fill;
  Operand x;    // band_out: (row, n).  band_in: band storage in (row, column) coordinates.  softmax: (row, slot)
  Operand y;    // (column, n).  softmax_backward: as x
  Operand out;  // band_out: band storage in (row, column) coordinates.  band_in: (row, n).  softmax: (row, slot)
};

// Addresses are numbers modulo 2^64: rows that do not exist may lie anywhere.
WINDOW_MATMUL_INLINE std::uintptr_t address_of(const Operand& m, index_t row, index_t column, std::uintptr_t element) {
  using U = std::uintptr_t;
  return m.address + (U(row) * U(m.row_stride) + U(column) * U(m.col_stride)) * element;
}
WINDOW_MATMUL_INLINE index_t times(index_t a, index_t b) { return index_t(std::uint64_t(a) * std::uint64_t(b)); }

// Every `step`-th row from `first` on.
WINDOW_MATMUL_INLINE Operand strided_rows(const Operand& m, index_t first, index_t step, std::uintptr_t element) {
  return {address_of(m, first, 0, element), times(m.row_stride, step), m.col_stride};
}

// Band storage in (row, column) coordinates, where it is an ordinary matrix: slot = column - first(row).
WINDOW_MATMUL_INLINE Operand by_columns(const Operand& m, const Band& band, std::uintptr_t element) {
  return {address_of(m, 0, band.left - band.shift, element), m.row_stride - m.col_stride, m.col_stride};
}

// The largest power of two, at most 16, that divides all offsets between rows: the vectors that can be aligned in every row at once.
WINDOW_MATMUL_INLINE std::uintptr_t row_alignment(index_t stride, std::uintptr_t element) {
  const std::uintptr_t bytes = std::uintptr_t(stride) * element | 16;
  return bytes & (~bytes + 1);
}
// How many elements an address lies behind one that is aligned in that way; 0 where the elements themselves are not.
WINDOW_MATMUL_INLINE index_t phase_of(std::uintptr_t address, index_t stride, std::uintptr_t element) {
  const std::uintptr_t alignment = row_alignment(stride, element);
  return alignment <= element ? 0 : index_t(address % alignment / element);
}

// Items are numbered with the blocks of a part fastest: neighbours share keys in the L2 cache.
WINDOW_MATMUL_INLINE Item item_of(const Launch& launch, index_t index, std::uintptr_t element) {
  const index_t block = index % launch.blocks, part = index / launch.blocks % launch.parts;
  index_t head = index / launch.blocks / launch.parts, x = 0, y = 0, out = 0;
  for (int d = launch.rank - 1; d >= 0; --d) {
    const index_t at = head % launch.shape[d];
    head /= launch.shape[d];
    x += times(at, launch.step_x[d]), y += times(at, launch.step_y[d]), out += times(at, launch.step_out[d]);
  }
  const auto moved = [&](Operand m, index_t offset) {
    m.address += std::uintptr_t(offset) * element;
    return m;
  };
  const DilatedPart p = dilated_part(launch.band, launch.dilation, part);
  Item item{p.band, {}, block * launch.item_rows, launch.dim, launch.fill, {}, {}, {}};
  item.x = strided_rows(moved(launch.x, x), launch.transposed ? p.first_col : p.first_row, launch.dilation, element);
  item.y = strided_rows(moved(launch.y, y), launch.y_like_x ? p.first_row : p.first_col, launch.dilation, element);
  item.out = strided_rows(moved(launch.out, out), p.first_row, launch.dilation, element);
  return item;
}

WINDOW_MATMUL_INLINE void set_rows(Item& item, index_t phase) {
  item.first -= phase;
  item.rows = Range{item.first, item.first + kBlockRows}.intersect({0, item.band.rows});
}

}  // namespace window_matmul::cuda
