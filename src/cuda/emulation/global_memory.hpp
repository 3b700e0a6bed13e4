// src/cuda/emulation/global_memory.hpp: the buffers a kernel may touch, and which sectors of them it did.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/emulation/report.hpp"
#include "window_matmul/tensor.hpp"

namespace window_matmul::cuda::emulation {

inline constexpr std::uintptr_t kSector = 32;

class GlobalMemory {
 public:
  explicit GlobalMemory(Report& report) : report_(report) {}

  // From the lowest to the highest element of a tensor. An output is only written, each byte at most once; an input is only read.
  void add(const TensorView& view, bool output, std::string name);
  void add(std::uintptr_t begin, std::size_t bytes, bool output, std::string name);

  // Whether [address, address + bytes) may be read or written; if not, that is reported. `alignment` 0 asks for none.
  bool may_load(std::uintptr_t address, std::size_t bytes, std::size_t alignment);
  bool may_store(std::uintptr_t address, std::size_t bytes);

  std::int64_t distinct_sectors() const;

 private:
  struct Buffer {
    std::uintptr_t begin, end;
    bool output;
    std::string name;
    std::vector<bool> touched;  // each sector from the one that holds `begin`
    std::vector<bool> written;  // each byte of an output
  };
  Buffer* find(std::uintptr_t address, std::size_t bytes, std::size_t alignment, const char* what);
  static void touch(Buffer& buffer, std::uintptr_t address, std::size_t bytes);

  Report& report_;
  std::vector<Buffer> buffers_;
};

}  // namespace window_matmul::cuda::emulation
