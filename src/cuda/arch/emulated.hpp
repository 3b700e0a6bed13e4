// src/cuda/arch/emulated.hpp: the CUDA kernels on this CPU: for tests, not for work.
#pragma once

#include "cuda/emulation/report.hpp"
#include "cuda/plan.hpp"

namespace window_matmul::cuda::emulation {

struct Run {
  std::uint64_t seed = 1;
  bool count_traffic = false;
  index_t max_blocks = 0;  // 0: the plan's
};

Report run_emulated(const Problem& problem, const Plan& plan, const Args& args, const Run& run);

}  // namespace window_matmul::cuda::emulation
