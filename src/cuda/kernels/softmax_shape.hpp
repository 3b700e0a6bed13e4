// src/cuda/kernels/softmax_shape.hpp: how many threads share a row of a softmax; for the plan and for the kernels.
#pragma once

#include "cuda/kernels/launch.hpp"

namespace window_matmul::cuda {

// Chunks of 16 bytes of a row that a thread holds in registers: 40, 36 or 18 numbers, at w = 128 those of 8 threads (32, fp64) for a row.
constexpr int softmax_chunks(std::size_t element) { return element == 2 ? 5 : 9; }

// The fewest that hold a row, wherever it begins in its first chunk; wider rows are read in pieces by all threads of a block.
constexpr int softmax_lanes(index_t width, std::size_t element) {
  const auto per_chunk = static_cast<index_t>(16 / element);
  for (const int lanes : {8, 32})
    if (width + per_chunk - 1 <= lanes * softmax_chunks(element) * per_chunk) return lanes;
  return kThreads;
}

// Rows of an item: four for each thread, so that finding the item costs little beside them.
constexpr index_t softmax_rows(int lanes) { return 4 * kThreads / lanes; }

// Shared memory of a block: where several warps share a row, a sum of each, twice.
constexpr std::size_t softmax_shared(int lanes, std::size_t element) {
  return lanes < kThreads ? 0 : 2 * (kThreads / 32) * (element == 8 ? 8 : 4);
}

}  // namespace window_matmul::cuda
