// src/cuda/conformance/on_emulation.cpp: the little kernels in the emulation.
#include "cuda/conformance/arithmetic.cuh"
#include "cuda/emulation/block.hpp"

namespace window_matmul::cuda::conformance {
namespace {

template <class Kernel>
std::string run(const std::byte* in, std::byte* out, std::uint64_t seed) {
  constexpr Grid grid = Kernel::kGrid;
  emulation::Report report;
  emulation::GlobalMemory global(report);
  const auto from = reinterpret_cast<std::uintptr_t>(in), to = reinterpret_cast<std::uintptr_t>(out);
  global.add(from, grid.in_bytes, false, "in"), global.add(to, grid.out_bytes, true, "out");
  emulation::run_grid([=] { Kernel::run(from, to); }, grid.blocks, grid.threads, grid.shared_bytes, global, report, {seed, false});
  return report.ok() ? "" : report.errors.front();
}

}  // namespace

std::vector<Runner> emulated_runners() {
  std::vector<Runner> runners;
  for_each_kernel([&]<class Kernel>() { runners.push_back({Kernel::kName, Kernel::kGrid, run<Kernel>}); });
  return runners;
}

}  // namespace window_matmul::cuda::conformance
