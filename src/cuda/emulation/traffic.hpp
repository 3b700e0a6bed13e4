// src/cuda/emulation/traffic.hpp: accesses of single threads put together to the requests of warps, and what those cost.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/emulation/report.hpp"

namespace window_matmul::cuda::emulation {

// The lanes of a warp run one after another here. What they do at the same place of the program for the n-th time since the last barrier
// of the block is taken for one request: exact where the lanes take the same branches, as they do in main loops.
class Traffic {
 public:
  enum class Space : std::uint8_t { global, shared };

  explicit Traffic(Report& report) : report_(report) {}

  void reset(int threads) {
    by_thread_.resize(static_cast<std::size_t>(threads));
    for (std::vector<Access>& accesses : by_thread_) accesses.clear();
  }
  void record(int thread, Space space, const void* place, std::uintptr_t address, std::uint32_t bytes);
  void flush();

  // Accesses that one request of addresses, all of the same size, takes: for each 128 bytes that it moves (32 lanes of 4 bytes, 16 of 8,
  // 8 of 16) as many as the busiest of the 32 banks has different words.
  void count_shared(std::span<const std::uintptr_t> addresses, std::uint32_t bytes);

 private:
  struct Access {
    std::uintptr_t place, address;
    std::uint32_t bytes;
    Space space;
  };
  struct Request {
    std::array<std::uintptr_t, 32> addresses;
    std::size_t lanes = 0;
  };
  struct Place {  // accesses of one size, so far
    std::vector<Request> requests;
    std::size_t lane = 0, times = 0;  // of the lane that is gone through
  };
  void flush_warp(std::size_t first_thread);
  void count_global(std::span<const std::uintptr_t> addresses, std::uint32_t bytes);

  Report& report_;
  std::vector<std::vector<Access>> by_thread_;
};

}  // namespace window_matmul::cuda::emulation
