// src/cuda/kernels/attention/results.cuh: from the sums of a row's softmax to its output and log-sum-exp; sums of some keys, for later.
#pragma once

#include "cuda/kernels/attention/scores.cuh"

namespace window_matmul::cuda {

// Of one head: `highest` is the highest score of a row in units of log 2 (0 where there is none), `total` the sum of 2^(score - highest).
template <class E, class Sum>
struct AttentionResults {
  const AttentionLaunch& launch;
  const AttentionItem& item;

  // What sums of weights times v are multiplied with: the softmax's denominator has the sink, and sees no dropout.
  WINDOW_MATMUL_DEVICE Sum share_of(Sum highest, Sum total) const {
    if (total == 0) return 0;
    Sum weight = 1, own = 0;
    if (launch.sinks.address != 0) {
      const Sum sink =
          extra_at<E, Sum>(launch.sinks.address, times(item.head, launch.sinks.head), launch.sinks_are_f32) * static_cast<Sum>(kLog2E);
      const Sum top = maximum(highest, sink);
      weight = power_of_two(highest - top), own = sink == top ? Sum{1} : power_of_two(sink - top);
    }
    return static_cast<Sum>(launch.gain) * weight / fused_multiply_add(total, weight, own);
  }

  WINDOW_MATMUL_DEVICE void store_lse(index_t row, Sum highest, Sum total) const {
    if (launch.lse.address == 0) return;
    const bool sees = total != 0;
    const std::uintptr_t at = address_of(rows_of_item(launch.lse, item, item.head, sizeof(Sum)), row, 0, sizeof(Sum));
    const Sum natural = sees ? highest * static_cast<Sum>(kLn2) : minus_infinity<Sum>(), rest = sees ? logarithm(total) : Sum{0};
    store_global(at, launch.split_lse ? natural : natural + rest);
    if (launch.split_lse) store_global(at + std::uintptr_t(launch.lse.column) * sizeof(Sum), rest);
  }

  // Where the sums of one part of a row's keys stay until they are joined: those of the output, then `highest` and `total`.
  WINDOW_MATMUL_DEVICE std::uintptr_t part_at(index_t row, index_t split, index_t element) const {
    const index_t rows = times(times(item.batch, launch.all_heads) + item.head, launch.band.rows) + item.row_position(row);
    return launch.partial + std::uintptr_t(times(times(rows, launch.splits) + split, launch.value_dim + 2) + element) * sizeof(Sum);
  }
};

}  // namespace window_matmul::cuda
