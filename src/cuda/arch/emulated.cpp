// src/cuda/arch/emulated.cpp: launching a plan's kernel in the emulation.
#include "cuda/arch/emulated.hpp"

#include "cuda/arch/emulate.hpp"
#include "cuda/kernels/elements.hpp"
#include "task.hpp"

namespace window_matmul::cuda::emulation {

Report run_emulated(const Problem& problem, const Plan& plan, const Args& args, const Run& run) {
  Report report;
  GlobalMemory global(report);
  global.add(args.x, false, "x"), global.add(args.out, true, "out");
  if (has_second_operand(problem.op)) global.add(args.y, false, "y");
  for (const Launch& launch : launches_of(problem, args)) {
    const index_t blocks = smaller(launch.items, run.max_blocks > 0 ? run.max_blocks : plan.max_blocks);
    with_element(plan, [&]<class E>() { emulate<E>(plan, launch, blocks, global, report, {run.seed, run.count_traffic}); });
  }
  return report;
}

}  // namespace window_matmul::cuda::emulation
