// src/cuda/arch/emulate_backward.cuh: the gradients of fused attention of one element type, run by the emulation.
#pragma once

#include "cuda/arch/emulate.hpp"
#include "cuda/kernels/attention/backward_table.cuh"
#include "cuda/kernels/elements.hpp"

namespace window_matmul::cuda::emulation {

template <class E>
void emulate_backward(const Plan& plan, const AttentionLaunch& launch, index_t blocks, GlobalMemory& global, Report& report,
                      const Settings& settings) {
  with_head_dim<E>(plan.head_dim, [&]<int Dim>() {
    with_backward_kernel_of<E, Dim>(plan, launch.kernel, [&]<class Kernel>() {
      if (Kernel::kSharedBytes > plan.shared_bytes) report.fail("the plan's shared memory is not the kernel's");
      run_grid([&] { Kernel::run(launch); }, blocks, Kernel::kThreads, Kernel::kSharedBytes, global, report, settings);
    });
  });
}

}  // namespace window_matmul::cuda::emulation
