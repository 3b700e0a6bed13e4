// python/bindings/cpu_device.hpp: where and how the operators run on CPU tensors.
#pragma once

#include "threads.hpp"
#include "window_matmul/ops.hpp"

namespace window_matmul::binding {

struct Cpu {
  static constexpr bool kReadsNumbers = true;  // of tensors, while the operator is called

  template <class Tensor>
  explicit Cpu(const Tensor&) {}
  // Waking a thread takes 4 us, some 50 000 multiply-adds.
  RunOptions options(double multiply_adds) const {
    RunOptions options;
    if (multiply_adds > 100'000) options.executor.parallel_for = torch_threads;
    return options;
  }
};

}  // namespace window_matmul::binding
