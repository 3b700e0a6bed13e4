// src/c_api/band.cpp: the operators on bands for C callers, and how tensors are described.
#include <utility>

#include "convert.hpp"
#include "window_matmul/window_matmul.hpp"

using namespace window_matmul;
using namespace window_matmul::c_api;

namespace {

constexpr double kExponential = 16;  // what an element of a softmax costs, in multiply-adds

double elements(const TensorView& t) {
  double count = 1;
  for (int dim = 0; dim < t.rank; ++dim) count *= static_cast<double>(t.shape[dim]);
  return count;
}

double last_dim(const TensorView& t) { return t.rank > 0 ? static_cast<double>(t.shape[t.rank - 1]) : 0; }

}  // namespace

const char* wm_version(void) { return WINDOW_MATMUL_VERSION; }

wm_tensor wm_contiguous(const void* data, int32_t dtype, int32_t ndim, const int64_t* shape) {
  wm_tensor tensor{const_cast<void*>(data), dtype, WM_CPU, ndim, {}, {}};
  int64_t step = 1;
  for (int dim = ndim <= WM_MAX_DIMS ? ndim - 1 : -1; dim >= 0; --dim) {
    tensor.shape[dim] = shape[dim];
    tensor.strides[dim] = step;
    if (shape[dim] > 0 && __builtin_mul_overflow(step, shape[dim], &step)) step = INT64_MAX;  // which no memory has: calls refuse it
  }
  return tensor;
}

wm_tensor wm_transposed(wm_tensor tensor) {
  const int last = tensor.ndim - 1;
  if (last < 1 || last >= WM_MAX_DIMS) return tensor;
  std::swap(tensor.shape[last], tensor.shape[last - 1]);
  std::swap(tensor.strides[last], tensor.strides[last - 1]);
  return tensor;
}

int wm_band_out(const wm_window* window, const wm_tensor* q, const wm_tensor* k, double fill, const wm_tensor* a) {
  return guarded([&] {
    const TensorView x = view_of("q", q), y = view_of("k", k), to = view_of("a", a);
    return band_out(window_of(window), x, y, to, fill, options_for(elements(to) * last_dim(x)));
  });
}

int wm_band_in(const wm_window* window, const wm_tensor* a, const wm_tensor* v, const wm_tensor* o) {
  return guarded([&] {
    const TensorView x = view_of("a", a), y = view_of("v", v), to = view_of("o", o);
    return band_in(window_of(window), x, y, to, options_for(elements(to) * last_dim(x)));
  });
}

int wm_band_in_transposed(const wm_window* window, const wm_tensor* a, const wm_tensor* x, const wm_tensor* o) {
  return guarded([&] {
    const TensorView weights = view_of("a", a), rows = view_of("x", x), to = view_of("o", o);
    return band_in_transposed(window_of(window), weights, rows, to, options_for(elements(weights) * last_dim(rows)));
  });
}

int wm_window_softmax(const wm_window* window, int64_t num_keys, const wm_tensor* a, const wm_tensor* p) {
  return guarded([&] {
    const TensorView x = view_of("a", a), to = view_of("p", p);
    return window_softmax(window_of(window), num_keys, x, to, options_for(elements(to) * kExponential));
  });
}

int wm_window_softmax_backward(const wm_window* window, int64_t num_keys, const wm_tensor* g, const wm_tensor* p, const wm_tensor* d) {
  return guarded([&] {
    const TensorView x = view_of("g", g), y = view_of("p", p), to = view_of("d", d);
    return window_softmax_backward(window_of(window), num_keys, x, y, to, options_for(elements(to) * 2));
  });
}
