// src/cpu/scratch.cpp: one buffer a thread, freed when the thread ends; and memory that is freed with its owner.
#include "cpu/scratch.hpp"

#include <cstdlib>
#include <string>

namespace window_matmul::cpu {
namespace {

constexpr std::size_t kAlignment = 64, kKept = std::size_t{4} << 20;

struct Buffer {
  void* data = nullptr;
  std::size_t bytes = 0;

  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data); }

  void resize(std::size_t wanted) {
    std::free(data);
    data = std::aligned_alloc(kAlignment, (wanted + kAlignment - 1) / kAlignment * kAlignment);
    bytes = data == nullptr ? 0 : wanted;
  }
};

}  // namespace

void* thread_scratch(std::size_t bytes) {
  thread_local Buffer buffer;
  if (buffer.data == nullptr || bytes > buffer.bytes || (buffer.bytes > kKept && bytes <= kKept)) buffer.resize(bytes);
  return buffer.data;
}

void Free::operator()(std::byte* memory) const { std::free(memory); }
Memory allocate(std::size_t bytes) { return Memory(static_cast<std::byte*>(std::malloc(bytes > 0 ? bytes : 1))); }
Status no_room(std::size_t bytes) { return {StatusCode::out_of_memory, "no memory for " + std::to_string(bytes) + " bytes of scratch"}; }

}  // namespace window_matmul::cpu
