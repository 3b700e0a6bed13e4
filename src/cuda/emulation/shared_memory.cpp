// src/cuda/emulation/shared_memory.cpp: who wrote and who read last, and whether the next one may know of it.
#include "cuda/emulation/shared_memory.hpp"

#include <algorithm>
#include <bit>

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
  cells_.resize(bytes / kGranule), writers_.resize(cells_.size());
  readers_.resize(static_cast<std::size_t>(warps) * cells_.size());
}

bool SharedMemory::fail(const char* what, int thread, std::uint32_t granule, const std::string& why) {
  report_.fail(std::string("shared ") + what + " by thread " + std::to_string(thread) + " at byte " + std::to_string(granule * kGranule) +
               ": " + why);
  return false;
}

bool SharedMemory::is_inside(const char* what, std::uint32_t offset, std::uint32_t bytes) {
  const bool aligned = (offset & (bytes - 1)) == 0;
  if (aligned && offset + bytes <= bytes_.size()) return true;
  report_.fail(std::string("shared ") + what + " of " + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) + " of " +
               std::to_string(bytes_.size()) + (aligned ? "" : ", which is not aligned"));
  return false;
}

bool SharedMemory::may_load(int thread, std::uint32_t granule) {
  const std::uint32_t when = cells_[granule].written_at;
  if (when == kCopying) return fail("load", thread, granule, "a copy may not have landed");
  if (when < clocks_.begin()) return fail("load", thread, granule, "nothing was stored there");
  if (clocks_.knows(thread, writers_[granule], when)) return true;
  return fail("load", thread, granule, "races with a store by thread " + std::to_string(writers_[granule]));
}

bool SharedMemory::load(int thread, std::uint32_t offset, void* to, std::uint32_t bytes) {
  if (!is_inside("load", offset, bytes)) return std::memset(to, 0, bytes), false;
  const std::uint32_t first = offset / kGranule, end = first + bytes / kGranule;
  const std::uint32_t begin = clocks_.begin(), known = clocks_.known_to_all() - begin;
  for (std::uint32_t n = first; n < end; ++n)
    if (cells_[n].written_at - begin >= known && !may_load(thread, n)) return std::memset(to, 0, bytes), false;
  const auto warp = static_cast<std::uint32_t>(thread / 32);
  Reader* readers = readers_.data() + warp * cells_.size();
  const Reader reader = {thread, clocks_.now(thread)};
  for (std::uint32_t n = first; n < end; ++n) cells_[n].readers |= std::uint32_t{1} << warp, readers[n] = reader;
  copy_few(to, bytes_.data() + offset, bytes);
  return true;
}

bool SharedMemory::may_write(int thread, const char* what, std::uint32_t granule) {
  const Cell& c = cells_[granule];
  const std::uint32_t known = clocks_.known_to_all();
  if (c.written_at == kCopying) return fail(what, thread, granule, "a copy may not have landed");
  if (c.written_at >= known && !clocks_.knows(thread, writers_[granule], c.written_at))
    return fail(what, thread, granule, "races with a store by thread " + std::to_string(writers_[granule]));
  for (std::uint32_t left = c.readers; left != 0; left &= left - 1) {
    const Reader& r = readers_[static_cast<std::size_t>(std::countr_zero(left)) * cells_.size() + granule];
    if (r.at >= known && !clocks_.knows(thread, r.thread, r.at))
      return fail(what, thread, granule, "races with a load by thread " + std::to_string(r.thread));
  }
  return true;
}

bool SharedMemory::check_write(int thread, const char* what, std::uint32_t offset, std::uint32_t bytes) {
  if (!is_inside(what, offset, bytes)) return false;
  for (std::uint32_t n = offset / kGranule; n < (offset + bytes) / kGranule; ++n)
    if (!may_write(thread, what, n)) return false;
  return true;
}

// Who comes to know of this write knows of all that it had to know of: earlier readers need not be remembered.
void SharedMemory::note_write(int thread, std::uint32_t offset, std::uint32_t bytes) {
  const Cell written = {clocks_.now(thread), 0};
  for (std::uint32_t n = offset / kGranule; n < (offset + bytes) / kGranule; ++n) cells_[n] = written, writers_[n] = thread;
}

bool SharedMemory::store(int thread, std::uint32_t offset, const void* from, std::uint32_t bytes) {
  if (!check_write(thread, "store", offset, bytes)) return false;
  note_write(thread, offset, bytes);
  copy_few(bytes_.data() + offset, from, bytes);
  return true;
}

bool SharedMemory::begin_copy(int thread, std::uint32_t offset, std::uint32_t bytes) {
  if (!check_write(thread, "copy", offset, bytes)) return false;
  for (std::uint32_t n = offset / kGranule; n < (offset + bytes) / kGranule; ++n) cells_[n] = {kCopying, 0};
  return true;
}

}  // namespace window_matmul::cuda::emulation
