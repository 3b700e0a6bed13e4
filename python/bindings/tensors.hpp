// python/bindings/tensors.hpp: stable-ABI tensors as TensorViews, fresh outputs, and a Status as an exception. For every device's binding.
#pragma once

#include <dlfcn.h>
#include <sys/mman.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

#include "kept_blocks.hpp"
#include "window_matmul/status.hpp"
#include "window_matmul/tensor.hpp"

namespace window_matmul::binding {

using torch::stable::Tensor;

// libtorch turns these into Python's ValueError, MemoryError and RuntimeError; a type it does not know would arrive without its text.
[[noreturn]] inline void raise(const Status& status) {
  struct OutOfMemory : std::bad_alloc {
    explicit OutOfMemory(const std::string& message) : text(message) {}
    const char* what() const noexcept override { return text.c_str(); }
    std::string text;
  };
  if (status.code() == StatusCode::invalid_argument) throw std::invalid_argument(status.message());
  if (status.code() == StatusCode::out_of_memory) throw OutOfMemory(status.message());
  throw std::runtime_error(status.message());
}
inline void check(const Status& status) {
  if (!status.ok()) raise(status);
}
inline void require(bool ok, const char* name, const std::string& got, const char* need) {
  if (!ok) throw std::invalid_argument(std::string(name) + " is " + got + "; it needs to be " + need);
}

inline DType dtype_of(const Tensor& tensor, const char* name) {
  using enum torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case Double:
      return DType::f64;
    case Float:
      return DType::f32;
    case BFloat16:
      return DType::bf16;
    case Half:
      return DType::f16;
    default:
      throw std::invalid_argument(std::string(name) + " must be float64, float32, bfloat16 or float16");
  }
}

// The same memory, whatever its strides. Nothing is copied.
inline TensorView view_of(const Tensor& tensor, const char* name) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  require(2 <= sizes.size() && sizes.size() <= TensorView::kMaxRank, name, "a tensor of " + std::to_string(sizes.size()) + " dims",
          "one of 2 to 16 dims");
  TensorView view{const_cast<void*>(tensor.const_data_ptr()), dtype_of(tensor, name), static_cast<int>(sizes.size())};
  std::copy(sizes.begin(), sizes.end(), view.shape);
  std::copy(strides.begin(), strides.end(), view.stride);
  return view;
}
static_assert(TensorView::kMaxRank == 16, "view_of's message says 16");

inline std::string text_of_shape(const TensorView& view) {
  std::string text;
  for (int dim = 0; dim < view.rank; ++dim) text += (dim == 0 ? "(" : ", ") + std::to_string(view.shape[dim]);
  return text + ")";
}

// torch's own words about the last call of its C interface that failed; before 2.13 it printed them instead.
inline std::string torch_error() {
  using What = const char* (*)();
  static const What what = reinterpret_cast<What>(dlsym(RTLD_DEFAULT, "torch_exception_get_what_without_backtrace"));
  return what ? what() : "out of memory, or what torch has written to stderr";
}

// A large fresh block takes a page fault every 4 KiB when it is first written; huge pages make that one every 2 MiB.
inline void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::int64_t bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
  if (bytes < std::int64_t{2 * kHugePage}) return;  // from here on at least one whole huge page lies inside
  const auto begin = reinterpret_cast<std::uintptr_t>(data), end = begin + static_cast<std::uintptr_t>(bytes);
  const std::uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage, last = end / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: a refusal changes nothing
#endif
}

inline std::int32_t torch_dtype(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return aoti_torch_dtype_float64();
    case DType::f32:
      return aoti_torch_dtype_float32();
    case DType::bf16:
      return aoti_torch_dtype_bfloat16();
    default:
      return aoti_torch_dtype_float16();
  }
}

// A new dense tensor of the view's dtype and shape on the device of `like`, not yet written; sets the view's strides and data. `order`
// names the dims as they lie in memory, outermost first; without it they lie in their own order.
inline Tensor allocate(const Tensor& like, TensorView* view, const int* order = nullptr) {
  index_t count = 1, bytes = 0;
  bool fits = true, nothing = false;
  for (int at = view->rank; at-- > 0;) {
    const int dim = order ? order[at] : at;
    view->stride[dim] = count;
    fits = fits && !__builtin_mul_overflow(count, std::max<index_t>(view->shape[dim], 1), &count);
    nothing = nothing || view->shape[dim] == 0;
  }
  fits = fits && !__builtin_mul_overflow(count, static_cast<index_t>(size_of(view->dtype)), &bytes);
  require(fits, "the shape of the result", text_of_shape(*view), "so small that its size fits into 64 bits");
  std::int32_t device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle handle =
      like.is_cpu() && !nothing ? tensor_on_kept_block(*view, torch_dtype(view->dtype), device, like.get_device_index(), bytes) : nullptr;
  if (handle == nullptr &&
      aoti_torch_empty_strided(view->rank, view->shape, view->stride, torch_dtype(view->dtype), device, like.get_device_index(), &handle)) {
    throw std::runtime_error("cannot allocate the result of shape " + text_of_shape(*view) + ", " + std::to_string(bytes) + " bytes" +
                             (like.is_cpu() ? "" : " on cuda:" + std::to_string(like.get_device_index())) + ": " + torch_error());
  }
  Tensor tensor(handle);
  view->data = tensor.mutable_data_ptr();
  if (!nothing && like.is_cpu()) ask_for_huge_pages(view->data, bytes);
  return tensor;
}

// A new row-major tensor (..., rows, cols) with the leading dims, dtype and device of `like`, not yet written.
inline Tensor empty(const Tensor& like, const TensorView& like_view, index_t rows, index_t cols, TensorView* view) {
  *view = like_view;
  view->shape[view->rank - 2] = rows, view->shape[view->rank - 1] = cols;
  return allocate(like, view);
}

}  // namespace window_matmul::binding
