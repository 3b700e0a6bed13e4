// src/cuda/emulation/block.hpp: a block of threads on one CPU thread: fibers in a seeded random order, meeting in barriers and warps.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/emulation/fiber.hpp"
#include "cuda/emulation/global_memory.hpp"
#include "cuda/emulation/report.hpp"
#include "cuda/emulation/shared_memory.hpp"
#include "cuda/emulation/traffic.hpp"

namespace window_matmul::cuda::emulation {

struct Settings {
  std::uint64_t seed = 1;
  bool count_traffic = false;  // takes several times as long
};

// What each thread runs. <functional> takes each file that includes this half as long as all else here.
struct Body {
  void (*run)(const void* kernel);
  const void* kernel;
};

class Block {
 public:
  // What the lanes of a warp do together: the last one to come runs it for all 32.
  using Together = void (*)(Block& block, void* const* lanes);

  Block(int threads, std::size_t shared_bytes, GlobalMemory& global, Report& report, const Settings& settings);

  static Block& current() { return *current_; }

  // Runs one block of a grid from start to end.
  void run(const Body& body, index_t block_index, index_t grid_size);

  int thread() const { return running_; }
  int threads() const { return static_cast<int>(threads_.size()); }
  index_t block_index() const { return block_index_; }
  index_t grid_size() const { return grid_size_; }

  void barrier(int id, int threads);
  void sync_warp();
  void together(Together what, void* mine);

  // Who calls tells requests apart: the address that these return to.
  [[gnu::noinline]] void load_global(std::uintptr_t address, void* to, std::uint32_t bytes);
  [[gnu::noinline]] void store_global(std::uintptr_t address, const void* from, std::uint32_t bytes);
  [[gnu::noinline]] void load_shared(std::uint32_t offset, void* to, std::uint32_t bytes);
  [[gnu::noinline]] void store_shared(std::uint32_t offset, const void* from, std::uint32_t bytes);
  [[gnu::noinline]] void copy_async(std::uint32_t offset, std::uintptr_t address, std::uint32_t bytes, int valid);
  void commit_copies();
  void wait_copies(int newest);

  // For matrix instructions: rows of 16 bytes, whoever's.
  SharedMemory& shared() { return shared_; }
  bool counts_traffic() const { return settings_.count_traffic; }
  void count_matrices(const std::vector<std::uintptr_t>& rows) { traffic_.count_shared(rows, 16); }
  void count_products(std::int64_t n) { report_.products += n; }
  int first_lane() const { return running_ / 32 * 32; }

 private:
  static constexpr int kBarriers = 16;
  struct Copy {
    std::uint32_t offset, bytes;
    std::array<std::byte, 16> data;  // read when the copy is issued: inputs do not change
    bool landed = false;
  };
  struct Thread {
    Fiber fiber;
    std::vector<Copy> copies;         // not yet waited for, oldest first
    std::vector<std::size_t> groups;  // sizes of the committed ones, oldest first
    std::size_t uncommitted = 0;
  };
  using Lanes = std::uint32_t;  // a bit for each
  static constexpr Lanes kAll = ~Lanes{0};
  struct Warp {
    Lanes ready = kAll;
    Lanes waiting = 0;  // in `together`
    Together what = nullptr;
    void* brought[32];  // to `together`
  };
  struct Barrier {
    std::vector<Lanes> waiting;  // of each warp
    int threads = 0, came = 0;
  };

  std::uint64_t random();
  bool one_in(std::uint64_t n) { return random() % n == 0; }
  Warp& my_warp() { return warps_[static_cast<std::size_t>(running_ / 32)]; }
  Lanes my_lane() const { return Lanes{1} << (running_ % 32); }
  Thread& at(int thread) { return threads_[static_cast<std::size_t>(thread)]; }
  static void enter(void* block);
  void start();
  void run_warp(int warp);
  int next_in_turn();
  void wait();
  void meet(const std::vector<Lanes>& lanes, int barrier);
  void land_some();
  void land(Copy& copy);
  void finish();
  std::string who_waits();

  static inline Block* current_ = nullptr;
  Report& report_;
  GlobalMemory& global_;
  Clocks clocks_;
  SharedMemory shared_;
  Traffic traffic_;
  Settings settings_;
  std::size_t shared_bytes_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::array<Barrier, kBarriers> barriers_;
  Body body_ = {};
  int running_ = 0, live_ = 0;
  int first_lane_of_turn_ = 0;
  Lanes to_come_ = 0;  // in this turn of a warp, by their places in it
  std::uint64_t random_;
  index_t block_index_ = 0, grid_size_ = 1;
};

// Runs a whole grid, its blocks one after another in a random order.
void run_grid(const Body& body, index_t blocks, int threads, std::size_t shared_bytes, GlobalMemory& global, Report& report,
              const Settings& settings);
template <class Kernel>
void run_grid(const Kernel& kernel, index_t blocks, int threads, std::size_t shared_bytes, GlobalMemory& global, Report& report,
              const Settings& settings) {
  const Body body = {[](const void* it) { (*static_cast<const Kernel*>(it))(); }, &kernel};
  run_grid(body, blocks, threads, shared_bytes, global, report, settings);
}

}  // namespace window_matmul::cuda::emulation
