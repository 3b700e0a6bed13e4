// tests/cuda_emulation/emulated_trial.hpp: one operator on one case, run by the CUDA kernel in the emulation.
#pragma once

#include <string>

#include "cuda/arch/emulated.hpp"
#include "trial.hpp"
#include "validate.hpp"

namespace window_matmul::testing_tools {

inline const cuda::Device kDevice = {};

inline Status validated(Trial& t, Problem* problem, Args* args) {
  const TensorView x = t.x.view(), y = t.y.view(), out = t.out.view();
  return validate({t.op, t.c.window, x, &y, out, t.c.cols, t.c.fill}, problem, args);
}

// Runs the trial's kernel and leaves what was counted and found in *report.
inline Status run_emulated(Trial& trial, const cuda::emulation::Run& run, cuda::emulation::Report* report) {
  Problem problem;
  Args args;
  if (Status status = validated(trial, &problem, &args); !status.ok()) return status;
  std::string why_not;
  if (!cuda::supports(problem, kDevice, &why_not)) return {StatusCode::unsupported, why_not};
  *report = cuda::emulation::run_emulated(problem, cuda::configure(problem, kDevice), args, run);
  if (report->ok()) return {};
  std::string text = std::to_string(report->num_errors) + " errors:";
  for (const std::string& error : report->errors) text += "\n  " + error;
  return {StatusCode::invalid_argument, text};
}

inline testing::AssertionResult check_emulated(Trial& trial, const cuda::emulation::Run& run, cuda::emulation::Report* report) {
  return trial.check(trial.expected(), [&] { return run_emulated(trial, run, report); });
}
inline testing::AssertionResult check_emulated(Op op, const Case& c, std::uint64_t seed, index_t max_blocks = 0) {
  Trial trial(op, c, seed);
  cuda::emulation::Report report;
  return check_emulated(trial, {.seed = seed, .max_blocks = max_blocks}, &report);
}

inline constexpr Op kCudaOps[] = {Op::band_out, Op::band_in, Op::band_in_transposed};

}  // namespace window_matmul::testing_tools
