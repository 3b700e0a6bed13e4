// src/cuda/emulation/report.hpp: what an emulated run found and counted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace window_matmul::cuda::emulation {

// Errors are collected, not thrown: a wrong access is left out (a load gives zeros) and the run goes on.
struct Report {
  static constexpr std::size_t kMost = 8;  // messages kept; a wrong kernel is wrong everywhere

  std::vector<std::string> errors;
  std::int64_t num_errors = 0;

  // Global memory, in 32-byte sectors. `requested` counts them for each request of a warp, as the L1 cache sees them; `distinct` counts
  // each once for the whole grid, as an infinite L2 cache would: the floor of the traffic with the device's memory.
  std::int64_t sectors_requested = 0, sectors_distinct = 0;
  std::int64_t bytes_loaded = 0, bytes_stored = 0, bytes_stored_by_16 = 0;
  // Shared memory. A request without conflicts takes `ideal` accesses of 128 bytes.
  std::int64_t shared_ideal = 0, shared_actual = 0;
  std::int64_t products = 0;  // multiply-adds of matrix instructions

  bool ok() const { return num_errors == 0; }
  void fail(std::string message) {
    ++num_errors;
    if (errors.size() < kMost) errors.push_back(std::move(message));
  }
  double conflicts() const { return shared_ideal == 0 ? 1 : static_cast<double>(shared_actual) / static_cast<double>(shared_ideal); }
};

}  // namespace window_matmul::cuda::emulation
