// src/cuda/conformance/runner.hpp: the little kernels by name, as one of the two machines runs them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace window_matmul::cuda::conformance {

struct Grid {
  int blocks = 1, threads = 32;
  std::size_t shared_bytes = 0, in_bytes = 0, out_bytes = 0;
};

struct Runner {
  std::string name;
  Grid grid;
  // Reads in_bytes, writes out_bytes. Returns what went wrong; nothing if all is well. The seed orders the emulation's threads.
  std::string (*run)(const std::byte* in, std::byte* out, std::uint64_t seed);
  bool available = true;  // whether this machine has the instruction
};

std::vector<Runner> emulated_runners();

// Those of GPU number `device`. None without such a GPU or a driver: *why_not says what is missing; else *name is the GPU's.
std::vector<Runner> gpu_runners(int device, std::string* name, std::string* why_not);

}  // namespace window_matmul::cuda::conformance
