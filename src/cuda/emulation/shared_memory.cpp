// src/cuda/emulation/shared_memory.cpp: who wrote and who read last, and whether the next one may know of it.
#include "cuda/emulation/shared_memory.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace window_matmul::cuda::emulation {

void Clocks::reset(int warps) {
  if (warps_ != warps) warps_ = warps, clock_.assign(static_cast<std::size_t>(warps) * static_cast<std::size_t>(warps), 0);
  meet_all();
  begin_ = known_;
}

void Clocks::meet(std::uint32_t warps) {
  const auto n = static_cast<std::size_t>(warps_);
  if (std::popcount(warps) == warps_) return meet_all();
  merged_.assign(n, 0);
  for (std::uint32_t left = warps; left != 0; left &= left - 1) {
    const std::uint32_t* row = clock_.data() + static_cast<std::size_t>(std::countr_zero(left)) * n;
    for (std::size_t other = 0; other < n; ++other) merged_[other] = std::max(merged_[other], row[other]);
  }
  for (std::size_t w = 0; w < n; ++w) merged_[w] += warps >> w & 1;  // what comes after is not known to anybody
  for (std::uint32_t left = warps; left != 0; left &= left - 1)
    std::copy(merged_.begin(), merged_.end(), clock_.begin() + std::countr_zero(left) * warps_);
}

void Clocks::meet_all() {  // everybody knows everything: what comes after is later than all that was
  known_ = *std::max_element(clock_.begin(), clock_.end()) + 1;
  std::fill(clock_.begin(), clock_.end(), known_);
}

void SharedMemory::reset(std::size_t bytes, int warps) {
  bytes_.assign(bytes, std::byte{0xFF});  // a NaN in every type
  if (std::exchange(copies_, 0) > 0) lines_.clear();  // a wrong block left them
  lines_.resize(bytes / (kGranule * kLine) + 1), writers_.resize(lines_.size() * kLine);
  readers_.resize(static_cast<std::size_t>(warps) * lines_.size());
}

bool SharedMemory::fail(const char* what, int thread, std::uint32_t granule, const std::string& why) {
  report_.fail(std::string("shared ") + what + " by thread " + std::to_string(thread) + " at byte " + std::to_string(granule * kGranule) +
               ": " + why);
  return false;
}

bool SharedMemory::fail_outside(const char* what, std::uint32_t offset, std::uint32_t bytes) {
  report_.fail(std::string("shared ") + what + " of " + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) + " of " +
               std::to_string(bytes_.size()) + (offset % bytes == 0 ? "" : ", which is not aligned"));
  return false;
}

bool SharedMemory::may_load(int thread, const Place& place) {
  for (std::uint32_t n = 0; n < place.count; ++n) {
    const std::uint32_t when = lines_[place.line].written_at[place.first + n], g = granule(place, n);
    if (when == kCopying) return fail("load", thread, g, "a copy may not have landed");
    if (when < clocks_.begin()) return fail("load", thread, g, "nothing was stored there");
    if (!clocks_.knows(thread, writers_[g], when))
      return fail("load", thread, g, "races with a store by thread " + std::to_string(writers_[g]));
  }
  return true;
}

template <std::uint32_t Count>
bool SharedMemory::load_granules(int thread, const Place& place) {
  Line& line = lines_[place.line];
  const std::uint32_t begin = clocks_.begin(), known = clocks_.known_to_all() - begin;
  std::uint32_t unknown = 0;
  for (std::uint32_t n = 0; n < Count; ++n) unknown |= std::uint32_t{line.written_at[place.first + n] - begin >= known};
  if (unknown != 0 && !may_load(thread, place)) return false;
  Reader& reader = readers_[static_cast<std::size_t>(thread / 32) * lines_.size() + place.line];
  const std::uint32_t now = clocks_.now(thread);
  for (std::uint32_t n = 0; n < Count; ++n) line.read_at[place.first + n] = now;
  for (std::uint32_t n = 0; n < Count; ++n) reader.read_at[place.first + n] = now;
  std::memset(reader.lane + place.first, thread % 32, Count);
  return true;
}

bool SharedMemory::load(int thread, std::uint32_t offset, void* to, std::uint32_t bytes) {
  const auto may = [&](const Place& place) {
    return bytes == 16  ? load_granules<8>(thread, place)
           : bytes == 8 ? load_granules<4>(thread, place)
           : bytes == 4 ? load_granules<2>(thread, place)
                        : load_granules<1>(thread, place);
  };
  if (!is_inside("load", offset, bytes) || !may(place_of(offset, bytes))) return std::memset(to, 0, bytes), false;
  copy_few(to, bytes_.data() + offset, bytes);
  return true;
}

// Of a read only its time is compared with the last barrier of all, after which every time is later: that of the last read will do.
bool SharedMemory::may_write(int thread, const char* what, const Place& place) {
  for (std::uint32_t n = 0; n < place.count; ++n) {
    const std::uint32_t at = place.first + n, when = lines_[place.line].written_at[at], known = clocks_.known_to_all(),
                        g = granule(place, n);
    if (when == kCopying) return fail(what, thread, g, "a copy may not have landed");
    if (when >= known && !clocks_.knows(thread, writers_[g], when))
      return fail(what, thread, g, "races with a store by thread " + std::to_string(writers_[g]));
    if (lines_[place.line].read_at[at] < known) continue;
    for (std::size_t r = place.line, warp = 0; r < readers_.size(); r += lines_.size(), ++warp) {
      const int reader = static_cast<int>(32 * warp + readers_[r].lane[at]);
      if (readers_[r].read_at[at] >= known && !clocks_.knows(thread, reader, readers_[r].read_at[at]))
        return fail(what, thread, g, "races with a load by thread " + std::to_string(reader));
    }
  }
  return true;
}

bool SharedMemory::check_write(int thread, const char* what, std::uint32_t offset, std::uint32_t bytes) {
  if (!is_inside(what, offset, bytes)) return false;
  const Place place = place_of(offset, bytes);
  const Line& line = lines_[place.line];
  const std::uint32_t known = clocks_.known_to_all();
  bool all_know = true;
  for (std::uint32_t n = place.first; n < place.first + place.count; ++n) all_know &= std::max(line.written_at[n], line.read_at[n]) < known;
  return all_know || may_write(thread, what, place);
}

void SharedMemory::note_write(int thread, std::uint32_t offset, std::uint32_t bytes) {
  const Place place = place_of(offset, bytes);
  const std::uint32_t now = clocks_.now(thread);
  for (std::uint32_t n = 0; n < place.count; ++n)
    lines_[place.line].written_at[place.first + n] = now, writers_[granule(place, n)] = static_cast<std::int16_t>(thread);
}

bool SharedMemory::store(int thread, std::uint32_t offset, const void* from, std::uint32_t bytes) {
  if (!check_write(thread, "store", offset, bytes)) return false;
  note_write(thread, offset, bytes);
  copy_few(bytes_.data() + offset, from, bytes);
  return true;
}

bool SharedMemory::begin_copy(int thread, std::uint32_t offset, std::uint32_t bytes) {
  if (!check_write(thread, "copy", offset, bytes)) return false;
  const Place place = place_of(offset, bytes);
  for (std::uint32_t n = 0; n < place.count; ++n) lines_[place.line].written_at[place.first + n] = kCopying;
  ++copies_;
  return true;
}

}  // namespace window_matmul::cuda::emulation
