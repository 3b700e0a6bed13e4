// src/cuda/arch/emulate.cuh: the kernels of one element type, run by the emulation.
#pragma once

#include "cuda/arch/emulate.hpp"
#include "cuda/kernels/elements.hpp"
#include "cuda/kernels/table.cuh"

namespace window_matmul::cuda::emulation {

template <class E>
void emulate(const Plan& plan, const Launch& launch, index_t blocks, GlobalMemory& global, Report& report, const Settings& settings) {
  with_kernel_of<E>(plan, [&]<class Kernel>() {
    if (Kernel::kSharedBytes != plan.shared_bytes) report.fail("the plan's shared memory is not the kernel's");
    run_grid([&] { Kernel::run(launch); }, blocks, kThreads, plan.shared_bytes, global, report, settings);
  });
}

}  // namespace window_matmul::cuda::emulation
