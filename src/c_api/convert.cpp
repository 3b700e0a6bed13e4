// src/c_api/convert.cpp: tensors, masks, numbers and windows of C callers, and the texts of what is refused.
#include "convert.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>

#include "checks.hpp"

namespace window_matmul::c_api {
namespace {

thread_local std::string last_error;
thread_local const char* last_text = "";  // last_error's, or one that needs no memory

constexpr const char* kNames[] = {"float64", "float32", "bfloat16", "float16", "int32", "int64", "bool"};
constexpr std::size_t kLargest = 4096;  // of a struct: beyond, `size` was never set, and nobody knows what lies there

int code_of(StatusCode code) {
  switch (code) {
    case StatusCode::ok:
      return WM_OK;
    case StatusCode::invalid_argument:
      return WM_INVALID_ARGUMENT;
    case StatusCode::unsupported:
      return WM_UNSUPPORTED;
    case StatusCode::out_of_memory:
      return WM_OUT_OF_MEMORY;
    case StatusCode::device_failed:
      break;
  }
  return WM_FAILED;
}

int keep(int code, const char* text) noexcept {
  try {
    last_error = text;
    last_text = last_error.c_str();
  } catch (...) {
    last_text = "out of memory";
  }
  return code;
}

std::string text(index_t n) { return std::to_string(n); }

std::string dtype_text(std::int32_t dtype) { return 0 <= dtype && dtype <= WM_BOOL ? kNames[dtype] : "of dtype " + text(dtype); }

static_assert(WM_MAX_DIMS == TensorView::kMaxRank);  // shapes are copied as they are

// Its dims, and memory where there are elements: then `data` is not null, so that the core takes it for given.
TensorView shaped(const char* name, const wm_tensor& t, std::size_t element) {
  const std::string what = name;
  if (t.device != WM_CPU) throw Refusal{what + " is on device " + text(t.device) + "; it needs to be WM_CPU, 0: there are no others"};
  if (t.ndim < 0 || t.ndim > WM_MAX_DIMS) throw Refusal{what + " has " + text(t.ndim) + " dims; it needs at most " + text(WM_MAX_DIMS)};
  TensorView view{t.data, DType::f32, t.ndim};
  std::copy(t.shape, t.shape + t.ndim, view.shape);
  std::copy(t.strides, t.strides + t.ndim, view.stride);
  if (const std::string e = checks::wrong_memory(name, view); !e.empty()) throw Refusal{e};
  if (reinterpret_cast<std::uintptr_t>(t.data) % element != 0)
    throw Refusal{what + " lies at an address that is no multiple of its elements' " + text(static_cast<index_t>(element)) + " bytes"};
  static char nothing[16];
  if (view.data == nullptr) view.data = nothing;
  return view;
}

template <class T>
std::vector<index_t> numbers_at(const TensorView& t) {
  std::vector<index_t> numbers(static_cast<std::size_t>(t.shape[0]));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<const T*>(t.data)[static_cast<index_t>(i) * t.stride[0]];
  return numbers;
}

}  // namespace

int remember(const Status& status) noexcept {
  if (!status.ok()) return keep(code_of(status.code()), status.message().c_str());
  last_text = "";
  return WM_OK;
}

int remember_current_exception() noexcept {
  try {
    throw;
  } catch (const Refusal& refusal) {
    return keep(WM_INVALID_ARGUMENT, refusal.text.c_str());
  } catch (const std::bad_alloc&) {
    return keep(WM_OUT_OF_MEMORY, "out of memory");
  } catch (const std::length_error&) {  // a list of more numbers than there can be
    return keep(WM_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return keep(WM_FAILED, error.what());
  } catch (...) {
    return keep(WM_FAILED, "an exception of unknown type");
  }
}

std::size_t element_bytes(std::int32_t dtype) {
  constexpr std::size_t kBytes[] = {8, 4, 2, 2, 4, 8, 1};
  return kBytes[dtype];
}

TensorView view_if_given(const char* name, const wm_tensor* tensor) {
  if (tensor == nullptr) return {};
  if (tensor->dtype < WM_FLOAT64 || tensor->dtype > WM_FLOAT16)
    throw Refusal{std::string(name) + " is " + dtype_text(tensor->dtype) + "; it needs to be float32, float64, bfloat16 or float16"};
  TensorView view = shaped(name, *tensor, element_bytes(tensor->dtype));
  constexpr DType dtypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
  view.dtype = dtypes[tensor->dtype];
  return view;
}

TensorView view_of(const char* name, const wm_tensor* tensor) {
  if (tensor == nullptr) throw Refusal{std::string(name) + " is null; it needs to be a tensor"};
  return view_if_given(name, tensor);
}

MaskView mask_if_given(const char* name, const wm_tensor* tensor, index_t batch, index_t num_keys) {
  if (tensor == nullptr) return {};
  if (tensor->dtype != WM_BOOL) throw Refusal{std::string(name) + " is " + dtype_text(tensor->dtype) + "; it needs to be bool"};
  const TensorView view = shaped(name, *tensor, 1);
  if (view.rank != 2 || view.shape[0] != batch || view.shape[1] != num_keys)
    throw Refusal{std::string(name) + " is " + checks::shape_text(view) + "; it needs to be (B, Lk), here (" + text(batch) + ", " +
                  text(num_keys) + ")"};
  return {static_cast<const std::uint8_t*>(view.data), view.stride[0], view.stride[1]};
}

std::vector<index_t> numbers_if_given(const char* name, const wm_tensor* tensor) {
  if (tensor == nullptr) return {};
  if (tensor->dtype != WM_INT32 && tensor->dtype != WM_INT64)
    throw Refusal{std::string(name) + " is " + dtype_text(tensor->dtype) + "; it needs to be int32 or int64"};
  const TensorView view = shaped(name, *tensor, element_bytes(tensor->dtype));
  if (view.rank != 1) throw Refusal{std::string(name) + " has " + text(view.rank) + " dims; it needs 1"};
  return tensor->dtype == WM_INT32 ? numbers_at<std::int32_t>(view) : numbers_at<std::int64_t>(view);
}

Window window_of(const wm_window* window) {
  if (window == nullptr) throw Refusal{"window is null; it needs to be a wm_window"};
  Window result{window->left, window->right};
  if (window->num_dilations < 0) throw Refusal{"window: num_dilations is " + text(window->num_dilations) + "; it needs to be at least 0"};
  if (window->num_dilations > 0 && window->dilation == nullptr)
    throw Refusal{"window: dilation is null beside num_dilations of " + text(window->num_dilations)};
  if (window->num_dilations > 0) result.dilation.assign(window->dilation, window->dilation + window->num_dilations);
  if (window->query_offset != nullptr) result.query_offset = *window->query_offset;
  return result;
}

void copy_known(const char* name, const char* init, const void* given, std::size_t given_size, void* known, std::size_t known_size) {
  const std::string what = std::string(name) + ": size is " + std::to_string(given_size);
  if (given_size == 0 || given_size % sizeof(std::size_t) != 0 || given_size > kLargest)
    throw Refusal{what + "; begin with " + init + ", which sets it"};
  std::memcpy(known, given, std::min(given_size, known_size));
  const auto* bytes = static_cast<const unsigned char*>(given);
  if (std::any_of(bytes + std::min(given_size, known_size), bytes + given_size, [](unsigned char byte) { return byte != 0; }))
    throw Refusal{what + ", and what lies behind the " + std::to_string(known_size) + " bytes that this library knows is not 0"};
}

}  // namespace window_matmul::c_api

const char* wm_last_error(void) { return window_matmul::c_api::last_text; }
