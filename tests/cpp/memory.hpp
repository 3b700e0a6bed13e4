// tests/cpp/memory.hpp: memory for one tensor: plain, or beside a page that faults when touched.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace window_matmul::testing_tools {

// What lies around a tensor: bytes that are compared afterwards, or on one side nothing at all.
enum class Around { canaries, fence_before, fence_after };

using Memory = std::shared_ptr<std::byte>;

Memory plain_memory(std::size_t bytes, std::align_val_t alignment);
Memory fenced_memory(std::size_t bytes, Around side);

}  // namespace window_matmul::testing_tools
