// src/cuda/emulation/shared_memory.hpp: the shared memory of a block: poisoned, and with the history that tells a race.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/emulation/report.hpp"

namespace window_matmul::cuda::emulation {

// Which of the others' steps a thread knows to lie before its own: barriers tell. Whole warps meet in them, so that all lanes of a warp
// know the same: one number for each warp of the block. Blocks that run one after another have one time.
class Clocks {
 public:
  void reset(int warps);            // a block begins
  void meet(std::uint32_t warps);  // a barrier of these: a bit for each
  std::uint32_t now(int thread) const { return at(thread / 32, thread / 32); }
  bool knows(int thread, int other, std::uint32_t when) const { return thread == other || at(thread / 32, other / 32) > when; }

  std::uint32_t begin() const { return begin_; }          // of the block
  std::uint32_t known_to_all() const { return known_; }  // what happened before this time: the last barrier of the whole block

 private:
  std::uint32_t at(int warp, int other) const { return clock_[static_cast<std::size_t>(warp * warps_ + other)]; }
  void meet_all();
  int warps_ = 0;
  std::uint32_t begin_ = 0, known_ = 0;
  std::vector<std::uint32_t> clock_, merged_;
};

// memcpy, inline for the sizes that accesses have.
inline void copy_few(void* to, const void* from, std::uint32_t bytes) {
  if (bytes == 16)
    std::memcpy(to, from, 16);
  else if (bytes == 8)
    std::memcpy(to, from, 8);
  else if (bytes == 4)
    std::memcpy(to, from, 4);
  else
    std::memcpy(to, from, bytes);
}

class SharedMemory {
 public:
  SharedMemory(Report& report, Clocks& clocks) : report_(report), clocks_(clocks) {}

  void reset(std::size_t bytes, int warps);

  bool load(int thread, std::uint32_t offset, void* to, std::uint32_t bytes);
  bool store(int thread, std::uint32_t offset, const void* from, std::uint32_t bytes);
  // A copy is on its way from begin_copy to end_copy; nobody may touch its target between the two.
  bool begin_copy(int thread, std::uint32_t offset, std::uint32_t bytes);
  void land_copy(std::uint32_t offset, const void* from, std::uint32_t bytes) { copy_few(bytes_.data() + offset, from, bytes); }
  void end_copy(int thread, std::uint32_t offset, std::uint32_t bytes) { --copies_, note_write(thread, offset, bytes); }

 private:
  static constexpr std::uint32_t kGranule = 2, kLine = 8;     // bytes: the smallest element; granules: the largest access
  static constexpr std::uint32_t kCopying = ~std::uint32_t{0};  // in the place of a time
  struct alignas(64) Line {
    std::uint32_t written_at[kLine], read_at[kLine];  // by the last one; what lies before the block began did not happen
  };
  struct Reader {
    std::uint32_t read_at[kLine];
    std::uint8_t lane[kLine];
  };
  // Granules of one line.
  struct Place {
    std::uint32_t line, first, count;
  };
  static Place place_of(std::uint32_t offset, std::uint32_t bytes) {
    return {offset / kGranule / kLine, offset / kGranule % kLine, bytes / kGranule};
  }
  std::uint32_t granule(const Place& place, std::uint32_t n) const { return place.line * kLine + place.first + n; }
  bool is_inside(const char* what, std::uint32_t offset, std::uint32_t bytes) {
    return ((offset & (bytes - 1)) == 0 && offset + bytes <= bytes_.size()) || fail_outside(what, offset, bytes);
  }
  bool fail_outside(const char* what, std::uint32_t offset, std::uint32_t bytes);
  template <std::uint32_t Count>
  bool load_granules(int thread, const Place& place);
  bool may_load(int thread, const Place& place);
  bool may_write(int thread, const char* what, const Place& place);
  bool check_write(int thread, const char* what, std::uint32_t offset, std::uint32_t bytes);
  void note_write(int thread, std::uint32_t offset, std::uint32_t bytes);
  bool fail(const char* what, int thread, std::uint32_t granule, const std::string& why);

  Report& report_;
  Clocks& clocks_;
  int copies_ = 0;  // on their way
  std::vector<std::byte> bytes_;
  std::vector<Line> lines_;
  std::vector<std::int16_t> writers_;  // threads
  std::vector<Reader> readers_;        // the last one of each warp
};

}  // namespace window_matmul::cuda::emulation
