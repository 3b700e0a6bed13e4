// src/c_api/convert.hpp: what C callers give, as the core takes it.
#pragma once

#include <string>
#include <vector>

#include "window_matmul/attention.hpp"
#include "window_matmul/c_api.h"

namespace window_matmul::c_api {

struct Refusal {  // thrown by the conversions, and caught by `guarded`
  std::string text;
};

int remember(const Status& status) noexcept;
int remember_current_exception() noexcept;

// Runs f, which returns a Status; the number for the caller, whose thread keeps the text.
template <class F>
int guarded(F&& f) noexcept {
  try {
    return remember(f());
  } catch (...) {
    return remember_current_exception();
  }
}

std::size_t element_bytes(std::int32_t dtype);  // one of wm_tensor's

// A tensor of numbers that the operators take. Null is refused.
TensorView view_of(const char* name, const wm_tensor* tensor);
// The same; null is a view without data, which is what the core takes for "not given".
TensorView view_if_given(const char* name, const wm_tensor* tensor);

// (B, Lk) bools.
MaskView mask_if_given(const char* name, const wm_tensor* tensor, index_t batch, index_t num_keys);

// (n,) int32 or int64; empty for null.
std::vector<index_t> numbers_if_given(const char* name, const wm_tensor* tensor);

Window window_of(const wm_window* window);

// Of a struct that may be older or newer than this library: what it has, in the library's own. Refuses fields that it does not know.
void copy_known(const char* name, const char* init, const void* given, std::size_t given_size, void* known, std::size_t known_size);

// As many threads as a call of so many multiply-adds is worth.
RunOptions options_for(double multiply_adds);

}  // namespace window_matmul::c_api
