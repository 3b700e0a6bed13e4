// src/cuda/emulation/shared_memory.hpp: the shared memory of a block: poisoned, and with the history that tells a race.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/emulation/report.hpp"

namespace window_matmul::cuda::emulation {

// Which of the others' steps a thread knows to lie before its own: one number for each thread of the block. Barriers merge them.
class Clocks {
 public:
  void reset(int threads);
  void meet(const std::vector<int>& threads);  // a barrier of these
  std::uint32_t now(int thread) const { return at(thread, thread); }
  std::uint32_t epoch() const { return epoch_; }  // barriers of the whole block so far: everybody knows all that lies before the last
  bool knows(int thread, int other, std::uint32_t when) const { return thread == other || at(thread, other) > when; }

 private:
  std::uint32_t at(int thread, int other) const { return clock_[static_cast<std::size_t>(thread * threads_ + other)]; }
  int threads_ = 0;
  std::uint32_t epoch_ = 1;
  std::vector<std::uint32_t> clock_, merged_;
};

class SharedMemory {
 public:
  SharedMemory(Report& report, Clocks& clocks) : report_(report), clocks_(clocks) {}

  void reset(std::size_t bytes, int threads);

  bool load(int thread, std::uint32_t offset, void* to, std::uint32_t bytes);
  bool store(int thread, std::uint32_t offset, const void* from, std::uint32_t bytes);
  // A copy is on its way from begin_copy to end_copy; nobody may touch its target between the two.
  bool begin_copy(int thread, std::uint32_t offset, std::uint32_t bytes);
  void land_copy(std::uint32_t offset, const void* from, std::uint32_t bytes) { std::memcpy(bytes_.data() + offset, from, bytes); }
  void end_copy(int thread, std::uint32_t offset, std::uint32_t bytes);

 private:
  static constexpr std::uint32_t kGranule = 2;  // bytes: the smallest element
  struct Cell {
    std::int16_t writer = -1;  // a thread; -1: nobody yet
    std::uint16_t copies = 0;  // on their way here
    std::uint32_t written_at = 0;
    std::uint32_t read_in = 0, readers = 0;  // an epoch, and a bit for each warp that has read in it: earlier ones race with nobody
  };
  struct Reader {
    std::int32_t thread;
    std::uint32_t at;
  };
  bool is_inside(const char* what, std::uint32_t offset, std::uint32_t bytes);
  bool check_write(int thread, const char* what, std::uint32_t offset, std::uint32_t bytes);
  void fail(const char* what, int thread, std::uint32_t offset, const std::string& why);
  Cell& cell(std::uint32_t offset) { return cells_[offset / kGranule]; }
  Reader& reader(std::uint32_t offset, std::size_t warp) { return readers_[warp * cells_.size() + offset / kGranule]; }

  Report& report_;
  Clocks& clocks_;
  std::size_t warps_ = 0;
  std::vector<std::byte> bytes_;
  std::vector<Cell> cells_;
  std::vector<Reader> readers_;  // the last one of each cell, for each warp that has its bit there
};

}  // namespace window_matmul::cuda::emulation
