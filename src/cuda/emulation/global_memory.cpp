// src/cuda/emulation/global_memory.cpp: every global access against the buffers that were handed over.
#include "cuda/emulation/global_memory.hpp"

namespace window_matmul::cuda::emulation {

void GlobalMemory::add(const TensorView& view, bool output, std::string name) {
  index_t lowest = 0, highest = 0;
  for (int d = 0; d < view.rank; ++d) {
    if (view.shape[d] == 0) return;
    const index_t reach = (view.shape[d] - 1) * view.stride[d];
    (reach < 0 ? lowest : highest) += reach;
  }
  const auto element = static_cast<index_t>(size_of(view.dtype));
  const auto begin = reinterpret_cast<std::uintptr_t>(view.data) + static_cast<std::uintptr_t>(lowest * element);
  add(begin, static_cast<std::size_t>((highest - lowest + 1) * element), output, std::move(name));
}

void GlobalMemory::add(std::uintptr_t begin, std::size_t bytes, bool output, std::string name) {
  const std::size_t sectors = (begin + bytes - 1) / kSector - begin / kSector + 1;
  buffers_.push_back({begin, begin + bytes, output, std::move(name), std::vector<bool>(sectors), std::vector<bool>(output ? bytes : 0)});
}

GlobalMemory::Buffer* GlobalMemory::find(std::uintptr_t address, std::size_t bytes, std::size_t alignment, const char* what) {
  if (alignment != 0 && address % alignment != 0) {
    report_.fail(std::string("global ") + what + " of " + std::to_string(bytes) + " bytes at an address that is " +
                 std::to_string(address % alignment) + " modulo " + std::to_string(alignment));
    return nullptr;
  }
  const bool output = what[0] == 's';
  for (Buffer& b : buffers_)
    if (b.output == output && b.begin <= address && address + bytes <= b.end) return &b;
  std::string where = "outside of all buffers";
  for (const Buffer& b : buffers_)
    if (address + bytes > b.begin - 4096 && address < b.end + 4096)
      where = "at byte " + std::to_string(static_cast<std::int64_t>(address - b.begin)) + " of " + b.name + " (" +
              std::to_string(b.end - b.begin) + " bytes, only " + (b.output ? "written" : "read") + ")";
  report_.fail(std::string("global ") + what + " of " + std::to_string(bytes) + " bytes " + where);
  return nullptr;
}

void GlobalMemory::touch(Buffer& buffer, std::uintptr_t address, std::size_t bytes) {
  const std::uintptr_t first = buffer.begin / kSector;
  for (std::uintptr_t s = address / kSector; s <= (address + bytes - 1) / kSector; ++s) buffer.touched[s - first] = true;
}

bool GlobalMemory::may_load(std::uintptr_t address, std::size_t bytes, std::size_t alignment) {
  Buffer* buffer = find(address, bytes, alignment, "load");
  if (buffer == nullptr) return false;
  touch(*buffer, address, bytes);
  report_.bytes_loaded += static_cast<std::int64_t>(bytes);
  return true;
}

bool GlobalMemory::may_store(std::uintptr_t address, std::size_t bytes) {
  Buffer* buffer = find(address, bytes, bytes, "store");
  if (buffer == nullptr) return false;
  touch(*buffer, address, bytes);
  report_.bytes_stored += static_cast<std::int64_t>(bytes);
  if (bytes == 16) report_.bytes_stored_by_16 += 16;
  for (std::size_t i = 0; i < bytes; ++i) {
    auto&& written = buffer->written[address - buffer->begin + i];
    if (written) {
      report_.fail("byte " + std::to_string(address - buffer->begin + i) + " of " + buffer->name + " is written twice");
      return false;
    }
    written = true;
  }
  return true;
}

std::int64_t GlobalMemory::distinct_sectors() const {
  std::int64_t count = 0;
  for (const Buffer& b : buffers_)
    for (const bool touched : b.touched) count += touched;
  return count;
}

}  // namespace window_matmul::cuda::emulation
