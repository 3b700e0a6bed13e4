// src/cuda/kernels/attention/shape.hpp: how a block of fused attention is laid out; for the plan and for the kernels.
#pragma once

#include "cuda/kernels/launch.hpp"

namespace window_matmul::cuda {

// Of tiles whose lines have so many bytes: what fits 99 KiB of shared memory, but for fp64 with lines of 1 KiB.
struct AttentionTiles {
  int rows, columns, stages;
  std::size_t bytes_of_rows, bytes_of_columns;
};
constexpr AttentionTiles attention_tiles(int line) {
  const int columns = line <= 256 ? 64 : line <= 512 ? 32 : 16, stages = line <= 256 ? 2 : 1;
  return {128, columns, stages, std::size_t{128} * static_cast<std::size_t>(line),
          static_cast<std::size_t>(columns) * static_cast<std::size_t>(line)};
}
// Rows, in each stage a tile of each of two operands, and what is kept of the item.
inline constexpr std::size_t kBytesKept = 272;
constexpr std::size_t attention_shared(int line) {
  const AttentionTiles tiles = attention_tiles(line);
  return tiles.bytes_of_rows + 2 * static_cast<std::size_t>(tiles.stages) * tiles.bytes_of_columns + kBytesKept;
}

// What head dims are padded to: 64, 128 or 256.
constexpr int padded_head_dim(index_t dim) { return dim <= 64 ? 64 : dim <= 128 ? 128 : 256; }
// Beyond, the sums leave no registers for the second text that a kernel without options has (forward.cuh).
constexpr bool has_forward_without_options(int head_dim) { return head_dim <= 128; }
inline constexpr int kJoinHeadDim = 64;  // whose file has the kernel that joins parts, which is the same for all

// Calls f.operator()<Dim>().
template <class E, class F>
void with_head_dim(const int head_dim, F&& f) {
  if constexpr (sizeof(E) == 2) {
    if (head_dim == 256) return f.template operator()<256>();
  }
  if (head_dim == 128) return f.template operator()<128>();
  f.template operator()<64>();
}
constexpr index_t most_head_dim(std::size_t element) { return element == 2 ? 256 : 128; }

}  // namespace window_matmul::cuda
