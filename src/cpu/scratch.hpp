// src/cpu/scratch.hpp: memory besides the tensors: what a thread keeps between calls, what a call holds, and items run with it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>

#include "window_matmul/problem.hpp"
#include "window_matmul/status.hpp"

namespace window_matmul::cpu {

constexpr index_t element_bytes(DType dtype) { return dtype == DType::f64 ? 8 : 4; }  // of sums and of packed operands

constexpr std::size_t kKeptScratch = std::size_t{4} << 20;
constexpr std::size_t kZeroedScratch = 128;  // the first bytes, before a thread's first item of a call

// Memory for the items of a call that one thread runs, 64-byte aligned. Fresh pages for each call would cost more than small problems take:
// up to kKeptScratch is kept by the thread, and there is one such object at a time. What takes more goes back to the system with its
// object: it holds sums of d_k and d_v that each of many queries adds to, beside which its pages cost little.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes);
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();

  void* data() const { return data_; }  // null if there is no memory

 private:
  std::size_t mapped_;
  void* data_;
};

struct Free {
  void operator()(std::byte* memory) const;
};
using Memory = std::unique_ptr<std::byte, Free>;
Memory allocate(std::size_t bytes);  // at least one byte, not cleared; null if there is no memory

Status no_room(std::size_t bytes);

// Calls f(item, scratch, &multiply_adds) for items 0 .. count - 1 on the executor's threads, with `bytes` of scratch; adds to the stats.
template <class F>
Status run_items(const Executor& executor, RunStats* stats, index_t count, std::size_t bytes, F&& f) {
  std::atomic<index_t> multiply_adds{0};
  std::atomic<bool> no_memory{false};
  executor.for_each_range(count, [&](index_t begin, index_t end) {
    const Scratch scratch(bytes);
    if (scratch.data() == nullptr) return no_memory.store(true);
    std::memset(scratch.data(), 0, std::min(bytes, kZeroedScratch));
    index_t done = 0;
    for (index_t item = begin; item < end; ++item) f(item, scratch.data(), &done);
    multiply_adds += done;
  });
  if (stats != nullptr) stats->work_items += count, stats->multiply_adds += multiply_adds;
  return no_memory ? no_room(bytes) : Status();
}

}  // namespace window_matmul::cpu
