// src/cpu/scratch.hpp: memory besides the tensors: what a thread keeps between calls, and what a call holds.
#pragma once

#include <cstddef>
#include <memory>

#include "window_matmul/status.hpp"
#include "window_matmul/tensor.hpp"

namespace window_matmul::cpu {

constexpr index_t element_bytes(DType dtype) { return dtype == DType::f64 ? 8 : 4; }  // of sums and of packed operands

// Fresh pages for each call would cost more than small problems take.
// At least `bytes` of memory of this thread, 64-byte aligned, valid until its next call; null if there is none.
// What exceeds 4 MiB is given back by the next smaller request.
void* thread_scratch(std::size_t bytes);

struct Free {
  void operator()(std::byte* memory) const;
};
using Memory = std::unique_ptr<std::byte, Free>;
Memory allocate(std::size_t bytes);  // at least one byte, not cleared; null if there is no memory

Status no_room(std::size_t bytes);

}  // namespace window_matmul::cpu
