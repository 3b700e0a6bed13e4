// src/cuda/kernels/attention/backward_shape.hpp: how a block of the backward kernels is laid out; for the plan and for the kernels.
#pragma once

#include "cuda/kernels/attention/shape.hpp"

namespace window_matmul::cuda {

// The four numbers of a query that its P and its gradients are computed with (backward_block.cuh).
inline constexpr int kFactsOfQuery = 4;

// Of tiles whose lines have so many bytes: the longer they are, the fewer rows and columns are held at a time. At most 98 KiB, which every
// GPU has: then two tiles of rows take 64, and what streams past them 32.
struct BackwardTiles {
  int line;
  bool options = true;  // phases on scores take registers: half as many columns
  int rows = line <= 256 ? 128 : 32768 / line;  // a warp for each 16
  int columns = line <= 256 && !options ? 32 : 16;
  int stages = line <= 512 ? 2 : 1;

  // backward_slots: the tiles of columns that reach a slot in some row, and the numbers of a tile's line.
  constexpr std::int64_t tiles_of_slots(std::int64_t width) const { return (width + rows - 2) / columns + 1; }
  constexpr int slots_of_tile() const { return rows + columns; }

  constexpr int threads() const { return 2 * rows; }
  constexpr std::uint32_t bytes_of_rows() const { return static_cast<std::uint32_t>(rows * line); }
  constexpr std::uint32_t bytes_of_columns() const { return static_cast<std::uint32_t>(columns * line); }
  constexpr std::uint32_t first_stage() const { return 2 * bytes_of_rows(); }
  constexpr std::uint32_t bytes_of_stage() const {
    return 2 * bytes_of_columns() + static_cast<std::uint32_t>(columns * kFactsOfQuery * 8);
  }
  constexpr std::uint32_t flags() const { return first_stage() + static_cast<std::uint32_t>(stages) * bytes_of_stage(); }
  constexpr std::size_t shared_bytes() const { return flags() + 4 * static_cast<std::size_t>(threads() / 32); }
};

// The others are so slow beside their products that asking for options costs them nothing.
constexpr bool has_kernel_without_options(int head_dim, std::size_t element) { return element == 2 && head_dim <= 128; }

// Whether the registers hold the sums of d_k and d_v at once: 128 of a thread, or 64 beside options.
constexpr bool holds_both_sums(int head_dim, std::size_t element, bool options) {
  return head_dim * (element == 8 ? 8 : 4) <= (options ? 256 : 512);
}

}  // namespace window_matmul::cuda
