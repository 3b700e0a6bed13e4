// tests/cuda_emulation/emulated_trial.hpp: one operator on one case, run by the CUDA kernel in the emulation.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cuda/arch/emulated.hpp"
#include "trial.hpp"
#include "validate.hpp"

namespace window_matmul::testing_tools {

inline const cuda::Device kDevice = {};

// What a kernel is chosen by, besides the operator.
struct Arithmetic {
  DType dtype;
  Precision precision = Precision::highest;
};
inline constexpr Arithmetic kArithmetics[] = {
    {DType::f32}, {DType::f32, Precision::high}, {DType::bf16}, {DType::f16}, {DType::f64},
};
inline constexpr Op kCudaOps[] = {Op::band_out, Op::band_in, Op::band_in_transposed, Op::softmax, Op::softmax_backward};
constexpr bool is_product(Op op) { return op != Op::softmax && op != Op::softmax_backward; }

using Kind = std::pair<Arithmetic, Op>;
inline std::vector<Kind> kinds_of_kernels() {
  std::vector<Kind> all;
  for (const Arithmetic& arithmetic : kArithmetics)
    for (const Op op : kCudaOps)
      if (is_product(op) || arithmetic.precision == Precision::highest) all.push_back({arithmetic, op});
  return all;
}
inline std::string name_of(const Kind& kind) {
  return std::string(name_of(kind.first.dtype)) + (kind.first.precision == Precision::high ? "_high_" : "_") + name_of(kind.second);
}

inline Status validated(Trial& t, Problem* problem, Args* args) {
  const TensorView x = t.x.view(), y = t.y.view(), out = t.out.view();
  return validate({t.op, t.c.window, x, t.op == Op::softmax ? nullptr : &y, out, t.c.cols, t.c.fill}, problem, args);
}

// Runs the trial's kernel and leaves what was counted and found in *report.
inline Status run_emulated(Trial& trial, Precision precision, const cuda::emulation::Run& run, cuda::emulation::Report* report) {
  Problem problem;
  Args args;
  if (Status status = validated(trial, &problem, &args); !status.ok()) return status;
  problem.precision = precision;
  std::string why_not;
  if (!cuda::supports(problem, kDevice, &why_not)) return {StatusCode::unsupported, why_not};
  *report = cuda::emulation::run_emulated(problem, cuda::configure(problem, kDevice), args, run);
  if (report->ok()) return {};
  std::string text = std::to_string(report->num_errors) + " errors:";
  for (const std::string& error : report->errors) text += "\n  " + error;
  return {StatusCode::invalid_argument, text};
}

// Three products of TF32 for one of fp32 err by 2^-21 of it, and are three terms to sum instead of one.
inline Numbers with_split_factors(Numbers numbers, const Trial& trial, std::uint64_t seed) {
  Case c = trial.c;
  c.fill = 0;
  Trial sizes(trial.op, c, seed);
  for (Tensor* t : {&sizes.x, &sizes.y})
    for (index_t i = 0; i < t->size(); ++i) t->set(i, std::abs((*t)[i]));
  const Numbers size = sizes.expected();
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i].tolerance = 3 * numbers[i].tolerance + 0x1p-21 * size[i].value;
  return numbers;
}

// Where infinity or NaN is due, nothing else will do.
inline testing::AssertionResult same_specials(const Tensor& got, const Numbers& want) {
  for (index_t i = 0; i < got.size(); ++i)
    if (const double value = want[static_cast<std::size_t>(i)].value; !std::isfinite(value) && !same_special(got[i], value))
      return testing::AssertionFailure() << got[i] << " at " << place(got.shape(), i) << " should be " << value;
  return testing::AssertionSuccess();
}

inline testing::AssertionResult check_emulated(Trial& trial, Precision precision, const cuda::emulation::Run& run,
                                               cuda::emulation::Report* report) {
  Numbers expected = trial.expected();
  if (precision == Precision::high) expected = with_split_factors(std::move(expected), trial, run.seed);
  const testing::AssertionResult result = trial.check(expected, [&] { return run_emulated(trial, precision, run, report); });
  return result ? same_specials(trial.out, expected) : result;
}
inline testing::AssertionResult check_emulated(const Kind& kind, Case c, std::uint64_t seed, index_t max_blocks = 0) {
  c.dtype = kind.first.dtype;
  Trial trial(kind.second, c, seed);
  cuda::emulation::Report report;
  return check_emulated(trial, kind.first.precision, {.seed = seed, .max_blocks = max_blocks}, &report);
}

}  // namespace window_matmul::testing_tools
