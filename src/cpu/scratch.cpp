// src/cpu/scratch.cpp: a small buffer that a thread keeps, a large one for as long as it is used; and memory that is freed with its owner.
#include "cpu/scratch.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <string>

namespace window_matmul::cpu {
namespace {

constexpr std::size_t kAlignment = 64;

// Freed when the thread ends.
struct Buffer {
  void* data = nullptr;
  std::size_t bytes = 0;

  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data); }

  void* of(std::size_t wanted) {
    if (data != nullptr && wanted <= bytes) return data;
    std::free(data);
    data = std::aligned_alloc(kAlignment, (wanted + kAlignment - 1) / kAlignment * kAlignment);
    bytes = data == nullptr ? 0 : wanted;
    return data;
  }
};

thread_local Buffer kept;

// Straight from the system: malloc would keep what is freed for the next time.
void* map(std::size_t bytes) {
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

}  // namespace

Scratch::Scratch(std::size_t bytes) : mapped_(bytes > kKeptScratch ? bytes : 0), data_(mapped_ > 0 ? map(bytes) : kept.of(bytes)) {}

Scratch::~Scratch() {
  if (mapped_ > 0 && data_ != nullptr) munmap(data_, mapped_);
}

void Free::operator()(std::byte* memory) const { std::free(memory); }
Memory allocate(std::size_t bytes) { return Memory(static_cast<std::byte*>(std::malloc(bytes > 0 ? bytes : 1))); }
Status no_room(std::size_t bytes) { return {StatusCode::out_of_memory, "no memory for " + std::to_string(bytes) + " bytes of scratch"}; }

}  // namespace window_matmul::cpu
