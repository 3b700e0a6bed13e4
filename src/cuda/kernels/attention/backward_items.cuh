// src/cuda/kernels/attention/backward_items.cuh: one of the backward kernels on the items of a launch.
#pragma once

#include "cuda/kernels/attention/item.cuh"

namespace window_matmul::cuda {

template <class Kernel, bool ByKeys>
struct BackwardItems {
  using Shape = typename Kernel::Shape;
  static constexpr int kThreads = Shape::kThreads, kBlocksAtOnce = 1;
  static constexpr std::size_t kSharedBytes = Shape::kSharedBytes;

  WINDOW_MATMUL_DEVICE static void run(const AttentionLaunch& launch) {
    WINDOW_MATMUL_NO_UNROLL
    for (index_t index = block_index(); index < launch.items; index += grid_size()) {
      const AttentionItem item = attention_item<ByKeys>(launch, index, Shape::kRows);
      if (item.rows.empty()) continue;
      Kernel kernel{{launch, item}};
      kernel.run();
      sync_threads();  // before the next item's copies
    }
  }
};

}  // namespace window_matmul::cuda
