// src/cuda/emulation/shared_memory.cpp: who wrote and who read last, and whether the next one may know of it.
#include "cuda/emulation/shared_memory.hpp"

#include <algorithm>
#include <bit>

namespace window_matmul::cuda::emulation {

void Clocks::reset(int threads) {
  threads_ = threads, epoch_ = 1;
  clock_.assign(static_cast<std::size_t>(threads) * static_cast<std::size_t>(threads), 0);
  for (int t = 0; t < threads; ++t) clock_[static_cast<std::size_t>(t * threads + t)] = 1;
}

void Clocks::meet(const std::vector<int>& threads) {
  const auto n = static_cast<std::size_t>(threads_);
  merged_.assign(n, 0);
  if (threads.size() == n) {
    ++epoch_;
    for (const int t : threads) merged_[static_cast<std::size_t>(t)] = now(t);  // nobody knows more of a thread than itself
  } else {
    for (const int t : threads) {
      const std::uint32_t* row = clock_.data() + static_cast<std::size_t>(t) * n;
      for (std::size_t other = 0; other < n; ++other) merged_[other] = std::max(merged_[other], row[other]);
    }
  }
  for (const int t : threads) ++merged_[static_cast<std::size_t>(t)];  // what comes after is not known to anybody
  for (const int t : threads) std::copy(merged_.begin(), merged_.end(), clock_.begin() + static_cast<std::ptrdiff_t>(t) * threads_);
}

void SharedMemory::reset(std::size_t bytes, int threads) {
  warps_ = static_cast<std::size_t>(threads + 31) / 32;
  bytes_.assign(bytes, std::byte{0xFF});  // a NaN in every type
  cells_.assign(bytes / kGranule, Cell{});
  readers_.resize(warps_ * cells_.size());
}

void SharedMemory::fail(const char* what, int thread, std::uint32_t offset, const std::string& why) {
  report_.fail(std::string("shared ") + what + " by thread " + std::to_string(thread) + " at byte " + std::to_string(offset) + ": " + why);
}

bool SharedMemory::is_inside(const char* what, std::uint32_t offset, std::uint32_t bytes) {
  if (offset % bytes == 0 && offset + bytes <= bytes_.size()) return true;
  report_.fail(std::string("shared ") + what + " of " + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) + " of " +
               std::to_string(bytes_.size()) + (offset % bytes == 0 ? "" : ", which is not aligned"));
  return false;
}

bool SharedMemory::load(int thread, std::uint32_t offset, void* to, std::uint32_t bytes) {
  std::memset(to, 0, bytes);
  if (!is_inside("load", offset, bytes)) return false;
  for (std::uint32_t at = offset; at < offset + bytes; at += kGranule) {
    Cell& c = cell(at);
    if (c.copies > 0) return fail("load", thread, at, "a copy may not have landed"), false;
    if (c.writer < 0) return fail("load", thread, at, "nothing was stored there"), false;
    if (!clocks_.knows(thread, c.writer, c.written_at))
      return fail("load", thread, at, "races with a store by thread " + std::to_string(c.writer)), false;
    if (c.read_in != clocks_.epoch()) c.read_in = clocks_.epoch(), c.readers = 0;
    c.readers |= 1u << (thread / 32);
    reader(at, static_cast<std::size_t>(thread / 32)) = {thread, clocks_.now(thread)};
  }
  std::memcpy(to, bytes_.data() + offset, bytes);
  return true;
}

bool SharedMemory::check_write(int thread, const char* what, std::uint32_t offset, std::uint32_t bytes) {
  if (!is_inside(what, offset, bytes)) return false;
  for (std::uint32_t at = offset; at < offset + bytes; at += kGranule) {
    const Cell& c = cell(at);
    if (c.copies > 0) return fail(what, thread, at, "a copy may not have landed"), false;
    if (c.writer >= 0 && !clocks_.knows(thread, c.writer, c.written_at))
      return fail(what, thread, at, "races with a store by thread " + std::to_string(c.writer)), false;
    for (std::uint32_t left = c.read_in == clocks_.epoch() ? c.readers : 0; left != 0; left &= left - 1)
      if (const Reader& r = reader(at, static_cast<std::size_t>(std::countr_zero(left))); !clocks_.knows(thread, r.thread, r.at))
        return fail(what, thread, at, "races with a load by thread " + std::to_string(r.thread)), false;
  }
  return true;
}

bool SharedMemory::store(int thread, std::uint32_t offset, const void* from, std::uint32_t bytes) {
  if (!check_write(thread, "store", offset, bytes)) return false;
  for (std::uint32_t at = offset; at < offset + bytes; at += kGranule)
    cell(at).writer = static_cast<std::int16_t>(thread), cell(at).written_at = clocks_.now(thread);
  std::memcpy(bytes_.data() + offset, from, bytes);
  return true;
}

bool SharedMemory::begin_copy(int thread, std::uint32_t offset, std::uint32_t bytes) {
  if (!check_write(thread, "copy", offset, bytes)) return false;
  for (std::uint32_t at = offset; at < offset + bytes; at += kGranule) ++cell(at).copies;
  return true;
}

void SharedMemory::end_copy(int thread, std::uint32_t offset, std::uint32_t bytes) {
  for (std::uint32_t at = offset; at < offset + bytes; at += kGranule) {
    --cell(at).copies;
    cell(at).writer = static_cast<std::int16_t>(thread), cell(at).written_at = clocks_.now(thread);
  }
}

}  // namespace window_matmul::cuda::emulation
