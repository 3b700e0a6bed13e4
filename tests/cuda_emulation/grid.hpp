// tests/cuda_emulation/grid.hpp: a few lines of kernel, run by the emulation.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cuda/primitives/primitives.hpp"

namespace window_matmul::testing_tools {

using cuda::emulation::Report;

struct Buffers {
  const void* in = nullptr;
  std::size_t in_bytes = 0;
  void* out = nullptr;
  std::size_t out_bytes = 0;
};

template <class Kernel>
Report run(Kernel kernel, int threads, std::size_t shared_bytes, const Buffers& b = {}, std::uint64_t seed = 1, index_t blocks = 1) {
  Report report;
  cuda::emulation::GlobalMemory global(report);
  if (b.in != nullptr) global.add(reinterpret_cast<std::uintptr_t>(b.in), b.in_bytes, false, "in");
  if (b.out != nullptr) global.add(reinterpret_cast<std::uintptr_t>(b.out), b.out_bytes, true, "out");
  cuda::emulation::run_grid(kernel, blocks, threads, shared_bytes, global, report, {seed, true});
  return report;
}

inline std::uintptr_t address(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }
inline bool says(const Report& report, const std::string& text) {
  for (const std::string& error : report.errors)
    if (error.find(text) != std::string::npos) return true;
  return false;
}
inline std::string all_of(const Report& report) {
  std::string text;
  for (const std::string& error : report.errors) text += error + "\n";
  return text.empty() ? "no errors" : text;
}

}  // namespace window_matmul::testing_tools
