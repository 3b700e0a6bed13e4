// src/cuda/arch/emulate_attention.cuh: fused attention of one element type, run by the emulation.
#pragma once

#include "cuda/arch/emulate.hpp"
#include "cuda/kernels/attention/table.cuh"
#include "cuda/kernels/elements.hpp"

namespace window_matmul::cuda::emulation {

template <class E>
void emulate_attention(const Plan& plan, const AttentionLaunch& launch, index_t blocks, GlobalMemory& global, Report& report,
                       const Settings& settings) {
  const auto run = [&]<class Kernel>() {
    if (launch.kernel == AttentionKernel::forward && Kernel::kSharedBytes != plan.shared_bytes)
      report.fail("the plan's shared memory is not the kernel's");
    run_grid([&] { Kernel::run(launch); }, blocks, kThreads, Kernel::kSharedBytes, global, report, settings);
  };
  with_head_dim<E>(launch.kernel == AttentionKernel::join ? kJoinHeadDim : plan.head_dim,
                   [&]<int Dim>() { with_attention_kernel_of<E, Dim>(plan, launch.kernel, run); });
}

}  // namespace window_matmul::cuda::emulation
