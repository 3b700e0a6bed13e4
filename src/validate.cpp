// src/validate.cpp: checks of the arguments; each message names the argument, what it got and what it needs.
#include "validate.hpp"

#include <cmath>

#include "checks.hpp"
#include "task.hpp"

namespace window_matmul {
namespace {

using namespace checks;

struct Names {
  const char *x, *y, *out;
};
Names names_of(Op op) {
  switch (op) {
    case Op::band_out:
      return {"q", "k", "a"};
    case Op::band_in:
      return {"a", "v", "o"};
    case Op::band_in_transposed:
      return {"a", "x", "o"};
    case Op::softmax:
      return {"a", "", "p"};
    case Op::softmax_backward:
      return {"g", "p", "d"};
    case Op::attention:
    case Op::attention_backward:
      break;  // validate_attention.cpp
  }
  return {"", "", ""};
}

// Each check returns "" or what is wrong.
std::string wrong_tensor(const char* name, const TensorView& t, DType dtype, const char* first) {
  if (t.rank < 2 || t.rank > TensorView::kMaxRank)
    return std::string(name) + " has " + text(t.rank) + " dims; it needs 2 to " + text(TensorView::kMaxRank);
  const std::string e = wrong_dtype(name, t, dtype, first);
  return e.empty() ? wrong_memory(name, t) : e;
}

std::string wrong_window(const Window& w) {
  if (const std::string e = wrong_sides(w); !e.empty()) return e;
  if (w.left > kUnbounded || w.right > kUnbounded || w.left + 1 + w.right > kUnbounded)
    return "window: left is " + text(w.left) + " and right is " + text(w.right) +
           "; band storage of left + 1 + right columns needs at most 2^60";
  return wrong_steps(w);
}

std::string wrong_size(const char* name, const TensorView& t, int dim_from_end, index_t need, const std::string& reason) {
  if (t.size(dim_from_end) == need) return "";
  return std::string(name) + " " + shape_text(t) + ": dim -" + text(dim_from_end) + " needs to be " + text(need) + ", " + reason;
}

// The lengths of the band, the dim, and the sizes that must agree.
std::string wrong_shapes(const Call& call, Problem* problem) {
  const Names names = names_of(call.op);
  const std::string x = names.x, y = names.y;
  const std::string width = "left + 1 + right";
  const index_t w = call.window.left + 1 + call.window.right;
  Band& band = problem->band;
  band.rows = call.x.size(2), band.left = call.window.left, band.right = call.window.right;
  std::string e;
  switch (call.op) {
    case Op::band_out:
      band.cols = call.y->size(1), problem->dim = call.x.size(1);
      e = wrong_size(names.y, *call.y, 2, problem->dim, "the last dim of " + x);
      if (e.empty()) e = wrong_size(names.out, call.out, 1, w, width);
      break;
    case Op::band_in:
      band.cols = call.y->size(2), problem->dim = call.y->size(1);
      e = wrong_size(names.x, call.x, 1, w, width);
      if (e.empty()) e = wrong_size(names.out, call.out, 1, problem->dim, "the last dim of " + y);
      break;
    case Op::band_in_transposed:
      band.cols = call.out.size(2), problem->dim = call.y->size(1);
      e = wrong_size(names.x, call.x, 1, w, width);
      if (e.empty()) e = wrong_size(names.y, *call.y, 2, band.rows, "the rows of " + x);
      if (e.empty()) e = wrong_size(names.out, call.out, 1, problem->dim, "the last dim of " + y);
      break;
    case Op::softmax:
    case Op::softmax_backward:
      if (call.num_keys < 0 || call.num_keys > kUnbounded) return "num_keys is " + text(call.num_keys) + "; it needs to be from 0 to 2^60";
      band.cols = call.num_keys;
      e = wrong_size(names.x, call.x, 1, w, width);
      if (e.empty() && call.y != nullptr) e = wrong_size(names.y, *call.y, 2, band.rows, "the rows of " + x);
      if (e.empty() && call.y != nullptr) e = wrong_size(names.y, *call.y, 1, w, width);
      if (e.empty()) e = wrong_size(names.out, call.out, 1, w, width);
      break;
    case Op::attention:
    case Op::attention_backward:
      break;
  }
  if (e.empty() && !writes_keys(call.op)) e = wrong_size(names.out, call.out, 2, band.rows, "the rows of " + x);
  band.shift = call.window.query_offset.value_or(band.cols - band.rows);
  return e;
}

// Expands the leading dims of `t` to those of `out` (stride 0 where it has size 1 or no dim).
std::string expand_leading(const char* name, const TensorView& t, const char* out_name, const TensorView& out, TensorView* expanded) {
  *expanded = t;
  expanded->rank = out.rank;
  const int missing = out.rank - t.rank;
  bool fits = missing >= 0;
  for (int d = out.rank - 1; d >= 0 && fits; --d) {
    const bool has = d >= missing;
    const bool matrix_dim = d >= out.rank - 2;
    expanded->stride[d] = has && (matrix_dim || t.shape[d - missing] != 1) ? t.stride[d - missing] : 0;
    expanded->shape[d] = matrix_dim ? t.shape[d - missing] : out.shape[d];
    fits = matrix_dim || !has || t.shape[d - missing] == 1 || t.shape[d - missing] == out.shape[d];
  }
  if (fits) return "";
  return std::string(name) + " " + shape_text(t) + ": its leading dims need to broadcast to those of " + out_name + " " + shape_text(out);
}

// The output's leading dims must be the broadcast of the inputs', not wider.
std::string wrong_leading(const Call& call, const Names& names) {
  for (int d = 0; d + 2 < call.out.rank; ++d) {
    index_t need = 1;
    for (const TensorView* t : {&call.x, call.y}) {
      const int at = t == nullptr ? -1 : d - (call.out.rank - t->rank);
      if (at >= 0 && t->shape[at] != 1) need = t->shape[at];
    }
    if (call.out.shape[d] != need)
      return std::string(names.out) + " " + shape_text(call.out) + ": dim " + text(d) + " needs to be " + text(need) +
             ", what the leading dims of the inputs broadcast to";
  }
  return overlapping(names.out, call.out);
}

std::string wrong(const Call& call, Problem* problem, Args* args) {
  const Names names = names_of(call.op);
  std::string e = wrong_tensor(names.x, call.x, call.x.dtype, names.x);
  if (e.empty() && call.y != nullptr) e = wrong_tensor(names.y, *call.y, call.x.dtype, names.x);
  if (e.empty()) e = wrong_tensor(names.out, call.out, call.x.dtype, names.x);
  if (e.empty()) e = wrong_window(call.window);
  if (e.empty() && std::isnan(call.fill)) e = "fill is NaN; it needs to be a number or an infinity";
  if (e.empty()) e = wrong_shapes(call, problem);
  if (e.empty()) e = expand_leading(names.x, call.x, names.out, call.out, &args->x);
  if (e.empty() && call.y != nullptr) e = expand_leading(names.y, *call.y, names.out, call.out, &args->y);
  if (e.empty()) e = wrong_leading(call, names);
  if (!e.empty()) return e;

  args->out = call.out;
  problem->op = call.op, problem->dtype = call.x.dtype, problem->fill = call.fill;
  problem->heads = call.out.rank > 2 ? call.out.size(3) : 1;
  problem->batch = 1;
  for (int d = 0; d + 3 < call.out.rank; ++d) problem->batch *= call.out.shape[d];
  return wrong_dilation(call.window, call.out, problem);
}

}  // namespace

Status validate(const Call& call, Problem* problem, Args* args) {
  const std::string e = wrong(call, problem, args);
  return e.empty() ? Status() : invalid_argument(std::string(name_of(call.op)) + ": " + e);
}

}  // namespace window_matmul
