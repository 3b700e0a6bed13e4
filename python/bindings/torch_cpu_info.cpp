// python/bindings/torch_cpu_info.cpp: what Python may ask of the library: kernels, facts, peak. No tensors, answers as text or a number.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "describe.hpp"
#include "tensors.hpp"
#include "threads.hpp"
#include "window_matmul/window_matmul.hpp"

namespace window_matmul::binding {
namespace {

std::string kernels(const std::string& op, const std::string& dtype) { return verdict_lines(op, dtype, this_device()); }

// Runs a row's loop of independent multiply-adds in registers on so many threads; returns how many it did in all.
std::int64_t multiply_adds(const std::string& backend, const std::string& dtype, std::int64_t steps, std::int64_t threads) {
  std::uint32_t available = 1;
  TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&available));
  require(steps >= 1, "steps", std::to_string(steps), "at least 1");
  require(1 <= threads && threads <= available, "threads", std::to_string(threads), "from 1 to torch.get_num_threads()");
  const Problem problem = any_problem("attention", dtype);
  const Kernel* kernel = nullptr;
  check(select(problem, this_device(), backend.c_str(), &kernel));
  require(kernel->spin != nullptr, "backend", backend, "one that has kernels of its own");
  std::vector<index_t> done(static_cast<std::size_t>(threads));
  const Executor executor{torch_threads};
  executor.for_each_range(threads, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) done[static_cast<std::size_t>(t)] = kernel->spin(problem.dtype, steps);
  });
  return std::accumulate(done.begin(), done.end(), index_t{0});
}

// A line a fact: its name, a tab, its value.
std::string facts() {
  const DeviceInfo& device = this_device();
  const char* forced = std::getenv("WINDOW_MATMUL_BACKEND");
  const auto yes_or_no = [](bool yes) { return yes ? "yes" : "no"; };
  const auto target = static_cast<std::uint64_t>(TORCH_TARGET_VERSION);
  const std::string compiler = __VERSION__;  // Clang's begins with its name
  std::string lines = "version\t" WINDOW_MATMUL_VERSION "\ncompiler\t" + (compiler < ":" ? "GCC " + compiler : compiler) + "\n";
  lines += "torch ABI target\t" + std::to_string(target >> 56) + "." + std::to_string(target >> 48 & 0xff) + "\n";
  lines += std::string("AVX2 + FMA + F16C\t") + yes_or_no(device.avx2) + "\nAVX-512 F BW DQ VL\t" + yes_or_no(device.avx512);
  lines += std::string("\nAVX-512 BF16\t") + yes_or_no(device.avx512bf16);
  lines += std::string("\nAMX BF16\t") + yes_or_no(device.amx) + "\n";
  lines +=
      "L1 data cache\t" + std::to_string(device.l1_bytes >> 10) + " KiB\nL2 cache\t" + std::to_string(device.l2_bytes >> 10) + " KiB\n";
  lines += std::string("WINDOW_MATMUL_BACKEND\t") + (forced ? forced : "(not set)") + "\n";
  return lines;
}

}  // namespace
}  // namespace window_matmul::binding

STABLE_TORCH_LIBRARY_FRAGMENT(window_matmul, library) {
  library.def("_kernels(str op, str dtype) -> str");
  library.def("_multiply_adds(str backend, str dtype, int steps, int threads) -> int");
  library.def("_facts() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CompositeExplicitAutograd, library) {
  using namespace window_matmul::binding;
  library.impl("_kernels", TORCH_BOX(&kernels));
  library.impl("_multiply_adds", TORCH_BOX(&multiply_adds));
  library.impl("_facts", TORCH_BOX(&facts));
}
