// src/cuda/arch/emulate_attention.cuh: fused attention of one element type, run by the emulation.
#pragma once

#include "cuda/arch/emulate.hpp"
#include "cuda/kernels/attention/table.cuh"
#include "cuda/kernels/elements.hpp"

namespace window_matmul::cuda::emulation {

template <class E>
void emulate_attention(const Plan& plan, const AttentionLaunch& launch, index_t blocks, GlobalMemory& global, Report& report,
                       const Settings& settings) {
  with_attention_kernel_of<E>(plan, launch.kernel, [&]<class Kernel>() {
    if (launch.kernel == AttentionKernel::forward && Kernel::kSharedBytes != plan.shared_bytes)
      report.fail("the plan's shared memory is not the kernel's");
    run_grid([&] { Kernel::run(launch); }, blocks, kThreads, Kernel::kSharedBytes, global, report, settings);
  });
}

}  // namespace window_matmul::cuda::emulation
