// tests/cpp/memory.cpp: memory for one tensor: plain, or beside a page that faults when touched.
#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

namespace window_matmul::testing_tools {

Memory plain_memory(std::size_t bytes, std::align_val_t alignment) {
  return {static_cast<std::byte*>(::operator new(bytes, alignment)), [=](std::byte* p) { ::operator delete(p, alignment); }};
}

Memory fenced_memory(std::size_t bytes, Around side) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t usable = (bytes + page - 1) / page * page, all = usable + page;
  void* begin = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) throw std::bad_alloc();
  auto* first = static_cast<std::byte*>(begin);
  std::byte* fence = side == Around::fence_before ? first : first + usable;
  if (mprotect(fence, page, PROT_NONE) != 0) throw std::bad_alloc();
  std::byte* start = side == Around::fence_before ? first + page : first + usable - bytes;
  return {start, [=](std::byte*) { munmap(begin, all); }};
}

}  // namespace window_matmul::testing_tools
