// src/cpu/scratch.hpp: memory that a thread keeps between calls: fresh pages for each call would cost more than small problems take.
#pragma once

#include <cstddef>

namespace window_matmul::cpu {

// At least `bytes` of memory of this thread, 64-byte aligned, valid until its next call; null if there is none.
// What exceeds 4 MiB is given back by the next smaller request.
void* thread_scratch(std::size_t bytes);

}  // namespace window_matmul::cpu
