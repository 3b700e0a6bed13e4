// src/checks.cpp: the checks of tensors and windows.
#include "checks.hpp"

namespace window_matmul::checks {

std::string shape_text(const TensorView& t) {
  std::string s = "(";
  for (int d = 0; d < t.rank; ++d) s += (d == 0 ? "" : ", ") + text(t.shape[d]);
  return s + ")";
}

std::string wrong_dtype(const char* name, const TensorView& t, DType dtype, const char* first) {
  if (t.dtype == dtype) return "";
  return std::string(name) + " is " + name_of(t.dtype) + "; it needs the dtype of " + first + ", " + name_of(dtype);
}

std::string wrong_memory(const char* name, const TensorView& t) {
  const std::string what = std::string(name) + " ";
  index_t count = 1, reach = 0;
  bool empty = false, overflow = false;
  for (int d = 0; d < t.rank; ++d) {
    if (t.shape[d] < 0) return what + shape_text(t) + " has a negative size";
    empty = empty || t.shape[d] == 0;
    index_t step = 0;
    overflow = overflow || t.shape[d] > kUnbounded || __builtin_mul_overflow(count, larger(t.shape[d], 1), &count);
    overflow = overflow || t.stride[d] < -kUnbounded;
    overflow = overflow || __builtin_mul_overflow(larger(t.shape[d], 1) - 1, t.stride[d] < 0 ? -t.stride[d] : t.stride[d], &step);
    overflow = overflow || __builtin_add_overflow(reach, step, &reach);
  }
  if (overflow || count > kUnbounded || reach > kUnbounded)
    return what + shape_text(t) + " is too large: its elements cannot be counted in 64 bits";
  if (!empty && t.data == nullptr) return what + shape_text(t) + " has no memory (data is null)";
  return "";
}

std::string overlapping(const char* name, const TensorView& t) {
  for (int d = 0; d < t.rank; ++d)
    if (t.shape[d] > 1 && t.stride[d] == 0) return std::string(name) + " overlaps itself: dim " + text(d) + " has stride 0";
  return "";
}

std::string wrong_sides(const Window& w) {
  if (w.left < 0) return "window: left is " + text(w.left) + "; it needs to be at least 0";
  if (w.right < 0) return "window: right is " + text(w.right) + "; it needs to be at least 0";
  return "";
}

std::string wrong_steps(const Window& w) {
  for (index_t d : w.dilation)
    if (d < 1 || d > kUnbounded) return "dilation is " + text(d) + "; it needs to be from 1 to 2^60";
  if (w.query_offset && (*w.query_offset > kUnbounded || *w.query_offset < -kUnbounded))
    return "query_offset is " + text(*w.query_offset) + "; it needs to be within -2^60 and 2^60";
  return "";
}

std::string wrong_dilation(const Window& window, const TensorView& out, Problem* problem) {
  if (!window.dilation.empty()) problem->dilation = window.dilation;
  const auto given = static_cast<index_t>(problem->dilation.size());
  if (given == 1 || given == problem->heads) return "";
  return "dilation has " + text(given) + " values; it needs one, or one for each of the " + text(problem->heads) + " heads (dim -3 of " +
         shape_text(out) + ")";
}

}  // namespace window_matmul::checks
