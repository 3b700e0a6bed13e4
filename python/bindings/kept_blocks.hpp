// python/bindings/kept_blocks.hpp: the memory of large results on the CPU, kept when torch lets go of it, for the next ones.
//
// glibc maps a block of 32 MiB and more anew at each call, and the system clears all its pages: a training loop pays that at each step. A
// block that is kept is marked free: the system takes its pages where memory is short. Where none fits, as much as is asked for is given
// back first: so a process never holds more than it would without.
#pragma once

#include <dlfcn.h>
#include <sys/mman.h>
#include <torch/csrc/stable/c/shim.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "window_matmul/tensor.hpp"

namespace window_matmul::binding {

class KeptBlocks {
 public:
  // Of the process, and never destroyed: tensors may outlive static objects.
  static KeptBlocks& instance() {
    static auto* const blocks = new KeptBlocks;
    return *blocks;
  }

  // A block from the start of a huge page on; null where torch is to find the memory.
  void* take(std::int64_t bytes) {
    if (bytes < kSmallest || bytes > limit_) return nullptr;
    const std::unique_lock lock(mutex_, std::try_to_lock);  // in a forked child another thread may hold it for ever
    if (!lock.owns_lock()) return nullptr;
    const std::int64_t size = size_of_block(bytes);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Block& b) { return b.size == size; });
    if (found == kept_.end()) {
      for (std::int64_t left = size; left > 0 && !kept_.empty();) left -= give_back_oldest();
      return map(size);
    }
    void* const data = found->data;
    kept_.erase(found);
    return data;
  }

  // What take(bytes) gave, from whichever thread drops the last tensor on it.
  void keep(void* data, std::int64_t bytes) {
    const Block block{data, size_of_block(bytes)};
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || madvise(data, static_cast<std::size_t>(block.size), MADV_FREE) != 0) return unmap(block);
    while (!kept_.empty() && total() + block.size > limit_) give_back_oldest();
    kept_.push_back(block);
  }

  std::int64_t bytes() {
    const std::scoped_lock lock(mutex_);
    return total();
  }
  std::int64_t give_back() {
    const std::scoped_lock lock(mutex_);
    std::int64_t freed = 0;
    while (!kept_.empty()) freed += give_back_oldest();
    return freed;
  }

 private:
  struct Block {
    void* data;
    std::int64_t size;
  };
  static constexpr const char* kVariable = "WINDOW_MATMUL_KEEP_MIB";
  static constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
  static constexpr std::int64_t kSmallest = std::int64_t{32} << 20;  // glibc's DEFAULT_MMAP_THRESHOLD_MAX: smaller ones it keeps itself

  static std::int64_t limit() {
    const char* const said = std::getenv(kVariable);
    if (said == nullptr) return sysconf(_SC_PHYS_PAGES) / 4 * sysconf(_SC_PAGESIZE);
    std::int64_t mebibytes = 0;
    const char* const end = said + std::strlen(said);
    const auto [rest, error] = std::from_chars(said, end, mebibytes);
    if (error != std::errc() || rest != end || mebibytes < 0 || mebibytes >> 40 != 0)
      throw std::invalid_argument(std::string(kVariable) + " is '" + said + "'; it needs to be a number of MiB, at least 0");
    return mebibytes << 20;
  }

  static std::int64_t size_of_block(std::int64_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

  static void* map(std::int64_t size) {
    const auto all = static_cast<std::size_t>(size + kHugePage);
    void* const mapped = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    const auto begin = reinterpret_cast<std::uintptr_t>(mapped),
               first = static_cast<std::uintptr_t>(size_of_block(static_cast<std::int64_t>(begin)));
    if (first > begin) munmap(mapped, first - begin);
    munmap(reinterpret_cast<void*>(first + static_cast<std::uintptr_t>(size)), begin + all - first - static_cast<std::uintptr_t>(size));
    madvise(reinterpret_cast<void*>(first), static_cast<std::size_t>(size), MADV_HUGEPAGE);  // advice: a refusal changes nothing
    return reinterpret_cast<void*>(first);
  }
  static void unmap(const Block& block) { munmap(block.data, static_cast<std::size_t>(block.size)); }

  std::int64_t total() const {
    std::int64_t bytes = 0;
    for (const Block& block : kept_) bytes += block.size;
    return bytes;
  }
  std::int64_t give_back_oldest() {
    const Block oldest = kept_.front();
    unmap(oldest);
    kept_.erase(kept_.begin());
    return oldest.size;
  }

  const std::int64_t limit_ = limit();
  std::mutex mutex_;
  std::vector<Block> kept_;  // the oldest first
};

// A tensor of `bytes` on such memory, or null. torch has the function from 2.11 on; beside 2.10 nothing is kept.
inline AtenTensorHandle tensor_on_kept_block(const TensorView& view, std::int32_t dtype, std::int32_t device, std::int32_t index,
                                             std::int64_t bytes) {
  using FromBlob =
      AOTITorchError (*)(void* data, std::int64_t rank, const std::int64_t* shape, const std::int64_t* stride, std::int64_t offset,
                         std::int32_t dtype, std::int32_t device, std::int32_t index, AtenTensorHandle* made, std::int32_t layout,
                         const std::uint8_t* metadata, std::int64_t metadata_size, void (*deleter)(void*, void*), void* context);
  static const auto from_blob = reinterpret_cast<FromBlob>(dlsym(RTLD_DEFAULT, "torch_from_blob"));
  void* const data = from_blob != nullptr ? KeptBlocks::instance().take(bytes) : nullptr;
  if (data == nullptr) return nullptr;
  const auto keep = [](void* block, void* context) { KeptBlocks::instance().keep(block, reinterpret_cast<std::intptr_t>(context)); };
  AtenTensorHandle made = nullptr;
  const auto failed = from_blob(data, view.rank, view.shape, view.stride, 0, dtype, device, index, &made, aoti_torch_layout_strided(),
                                nullptr, 0, keep, reinterpret_cast<void*>(static_cast<std::intptr_t>(bytes)));
  if (failed) keep(data, reinterpret_cast<void*>(static_cast<std::intptr_t>(bytes)));
  return made;
}

}  // namespace window_matmul::binding
