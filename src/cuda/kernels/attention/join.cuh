// src/cuda/kernels/attention/join.cuh: decoding: the sums of the parts that a row's keys were cut into become its output, in the order of
// the keys.
//
//   A warp takes a row; each lane some columns of the output. Nothing in shared memory.
#pragma once

#include "cuda/kernels/attention/results.cuh"

namespace window_matmul::cuda {

template <class E>
struct AttentionJoinKernel {
  using Sum = std::conditional_t<sizeof(E) == 8, double, float>;
  using Results = AttentionResults<E, Sum>;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr std::size_t kSharedBytes = 0;

  WINDOW_MATMUL_DEVICE static Sum number(const Results& of, index_t row, index_t split, index_t element) {
    return load_global<Sum>(of.part_at(row, split, element));
  }

  WINDOW_MATMUL_DEVICE static void store(const AttentionLaunch& launch, const AttentionItem& item, index_t row, index_t column, Sum value) {
    if constexpr (sizeof(E) == 2) {
      if (launch.wide_out)
        return store_global(address_of(rows_of_item(launch.out, item, item.head, sizeof(Sum)), row, column, sizeof(Sum)), value);
    }
    store_global(address_of(rows_of_item(launch.out, item, item.head, sizeof(E)), row, column, sizeof(E)), rounded<E>(value));
  }

  WINDOW_MATMUL_DEVICE static void join(const AttentionLaunch& launch, const AttentionItem& item, index_t row) {
    const Results results{launch, item};
    Sum top = minus_infinity<Sum>(), total = 0;
    WINDOW_MATMUL_NO_UNROLL
    for (index_t split = 0; split < launch.splits; ++split)
      if (number(results, row, split, launch.value_dim + 1) != 0) top = maximum(top, number(results, row, split, launch.value_dim));
    if (top == minus_infinity<Sum>()) top = 0;
    const auto weight = [&](index_t split) {  // a part that sees nothing has the total 0, and sums of 0
      return number(results, row, split, launch.value_dim + 1) == 0 ? Sum{0}
                                                                    : power_of_two(number(results, row, split, launch.value_dim) - top);
    };
    WINDOW_MATMUL_NO_UNROLL
    for (index_t split = 0; split < launch.splits; ++split)
      total = fused_multiply_add(number(results, row, split, launch.value_dim + 1), weight(split), total);
    const Sum share = results.share_of(top, total);
    WINDOW_MATMUL_NO_UNROLL
    for (index_t column = lane_index(); column < launch.value_dim; column += kWarp) {
      Sum sum = 0;
      WINDOW_MATMUL_NO_UNROLL
      for (index_t split = 0; split < launch.splits; ++split)
        if (const Sum w = weight(split); w != 0) sum = fused_multiply_add(number(results, row, split, column), w, sum);
      store(launch, item, row, column, sum * share);
    }
    if (lane_index() == 0) results.store_lse(row, top, total);
  }

  WINDOW_MATMUL_DEVICE static void run(const AttentionLaunch& launch) {
    WINDOW_MATMUL_NO_UNROLL
    for (index_t index = block_index(); index < launch.items; index += grid_size()) {
      const index_t number = index * (kThreads / kWarp) + warp_index(), rows = launch.band.rows;
      if (number >= launch.sequences * launch.all_heads * rows) continue;
      AttentionItem item;
      item.batch = number / rows / launch.all_heads, item.head = number / rows % launch.all_heads;
      item.rows_there = {0, rows};
      join(launch, item, number % rows);
    }
  }
};

}  // namespace window_matmul::cuda
