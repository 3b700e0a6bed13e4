// src/cuda/kernels/band/softmax_shape.hpp: how many threads share a row of a softmax; for the plan and for the kernels.
#pragma once

#include "cuda/kernels/launch.hpp"

namespace window_matmul::cuda {

// Chunks of 16 bytes of a row that a thread holds in registers. Backward holds two operands; of halves, which it makes numbers of, five of
// each would take more than the 128 registers that two blocks on a multiprocessor leave.
constexpr int softmax_chunks(bool backward, std::size_t element) { return backward && element == 2 ? 3 : 5; }

// The fewest threads that share a row: at w = 128 they hold it, whatever its elements.
constexpr int softmax_fewest_lanes(bool backward, std::size_t element) {
  return backward && element == 2 ? 16 : 4 * static_cast<int>(element);
}

// The fewest that hold a row, wherever it begins in its first chunk; wider rows are read in pieces by all threads of a block.
constexpr int softmax_lanes(bool backward, index_t width, std::size_t element) {
  const auto per_chunk = static_cast<index_t>(16 / element);
  for (const int lanes : {softmax_fewest_lanes(backward, element), 32})
    if (width + per_chunk - 1 <= lanes * softmax_chunks(backward, element) * per_chunk) return lanes;
  return kThreads;
}

// Rows of an item: four for each thread, so that finding the item costs little beside them.
constexpr index_t softmax_rows(int lanes) { return 4 * kThreads / lanes; }

// Shared memory of a block: where several warps share a row, a sum of each, twice.
constexpr std::size_t softmax_shared(int lanes, std::size_t element) {
  return lanes < kThreads ? 0 : 2 * (kThreads / 32) * (element == 8 ? 8 : 4);
}

}  // namespace window_matmul::cuda
