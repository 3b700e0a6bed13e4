// tests/cuda_emulation/emulated_attention.hpp: fused attention on one case, from the public operators down to the kernels in the emulation.
#pragma once

#include "attention_trial.hpp"
#include "cuda/arch/emulated.hpp"
#include "cuda/cuda.hpp"
#include "emulated_trial.hpp"

namespace window_matmul::testing_tools {

inline const DeviceInfo kAmpere{.kind = DeviceInfo::Kind::cuda, .major = 8, .minor = 0, .multiprocessors = 108, .shared_bytes = 163 << 10};

inline std::string name_of(const Arithmetic& of) {
  return std::string(name_of(of.dtype)) + (of.precision == Precision::high ? "_high" : "");
}

// While it lives, calls with tensors on a GPU run in the emulation.
class Emulated {
 public:
  Emulated() { cuda::set_runner(&kRunner); }
  ~Emulated() { cuda::set_runner(nullptr); }
  Emulated(const Emulated&) = delete;
  Emulated& operator=(const Emulated&) = delete;

  static inline cuda::emulation::Run how = {};
  static inline cuda::emulation::Report report = {};  // of the last run

 private:
  static Status run(const Problem& problem, const cuda::Plan& plan, const Args& args) {
    report = cuda::emulation::run_emulated(problem, plan, args, how);
    if (report.ok()) return {};
    std::string text = std::to_string(report.num_errors) + " errors:";
    for (const std::string& error : report.errors) text += "\n  " + error;
    return {StatusCode::device_failed, text};
  }
  static constexpr cuda::Runner kRunner{run, "sm_80"};
};

// The case as these kernels compute it.
inline AttentionCase as_computed(AttentionCase c, const Arithmetic& arithmetic) {
  c.dtype = arithmetic.dtype, c.elsewhere = 0;  // refused
  c.narrows_weights = size_of(c.dtype) == 2, c.splits_factors = arithmetic.precision == Precision::high;
  return c;
}

inline testing::AssertionResult check_emulated(Op op, const AttentionCase& c, const Arithmetic& arithmetic, std::uint64_t seed) {
  AttentionTrial trial(as_computed(c, arithmetic), seed);
  trial.on_gpu = true;
  Emulated::how.seed = seed, Emulated::how.max_blocks = static_cast<index_t>(seed % 3);
  return trial.check(op, {.device = &kAmpere, .precision = arithmetic.precision});
}

}  // namespace window_matmul::testing_tools
