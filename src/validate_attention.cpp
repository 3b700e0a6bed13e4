// src/validate_attention.cpp: checks of the arguments of fused attention; each message names the argument, what it got and what it needs.
#include "validate_attention.hpp"

#include <algorithm>
#include <cmath>

#include "checks.hpp"
#include "fill_attention.hpp"

namespace window_matmul {
namespace {

using namespace checks;
using Shape = std::initializer_list<index_t>;
using Sizes = AttentionSizes;

// Each check returns "" or what is wrong.

// A tensor of the shape that `letters` spell.
std::string wrong_tensor(const char* name, const TensorView& t, DType dtype, const char* letters, Shape shape) {
  const auto rank = static_cast<int>(shape.size());
  const std::string what = std::string(name) + " ";
  if (t.rank != rank) return what + "has " + text(t.rank) + " dims; it needs " + text(rank) + ", " + letters;
  if (std::string e = wrong_dtype(name, t, dtype, "q"); !e.empty()) return e;
  if (!std::equal(shape.begin(), shape.end(), t.shape)) {
    TensorView need = t;
    std::copy(shape.begin(), shape.end(), need.shape);
    return what + shape_text(t) + " needs to be " + letters + ", here " + shape_text(need);
  }
  return wrong_memory(name, t);
}

std::string wrong_output(const char* name, const TensorView& t, DType dtype, const char* letters, Shape shape) {
  const std::string e = wrong_tensor(name, t, dtype, letters, shape);
  return e.empty() ? overlapping(name, t) : e;
}

std::string wrong_operands(const AttentionInputs& in, Sizes* sizes) {
  const TensorView &q = in.q, &k = in.k, &v = in.v;
  std::string e;
  for (const auto& [name, t] : {std::pair{"q", &q}, std::pair{"k", &k}, std::pair{"v", &v}})
    if (t->rank != 4) return std::string(name) + " has " + text(t->rank) + " dims; it needs 4, (batch, heads, length, dim)";
  *sizes = {q.shape[0], q.shape[1], q.shape[2], q.shape[3], k.shape[1], k.shape[2], v.shape[3]};
  const Sizes& n = *sizes;
  e = wrong_tensor("q", q, q.dtype, "(B, H, Lq, D)", {n.b, n.h, n.lq, n.d});
  if (e.empty()) e = wrong_tensor("k", k, q.dtype, "(B, Hkv, Lk, D) with q's B and D", {n.b, n.hkv, n.lk, n.d});
  if (e.empty()) e = wrong_tensor("v", v, q.dtype, "(B, Hkv, Lk, Dv) with k's B, Hkv and Lk", {n.b, n.hkv, n.lk, n.dv});
  if (!e.empty()) return e;
  if (n.hkv == 0 ? n.h != 0 : n.h % n.hkv != 0)
    return "k has " + text(n.hkv) + " heads; q's " + text(n.h) + " heads need to be a multiple of them";
  return "";
}

std::string wrong_numbers(const AttentionInputs& in, const Sizes& n) {
  const auto number = [](double x) { return std::to_string(x); };
  if (in.scale && !std::isfinite(*in.scale)) return "scale is " + number(*in.scale) + "; it needs to be finite";
  if (!in.scale && n.d == 0) return "scale is not given; it needs to be where D is 0, since 1 / sqrt(D) is not finite";
  if (!(in.softcap >= 0) || !std::isfinite(in.softcap))
    return "softcap is " + number(in.softcap) + "; it needs to be finite and at least 0";
  if (!(in.dropout_p >= 0 && in.dropout_p <= 1)) return "dropout_p is " + number(in.dropout_p) + "; it needs to be from 0 to 1";
  if (in.global_tokens < 0) return "global_tokens is " + text(in.global_tokens) + "; it needs to be at least 0";
  if (in.global_tokens > 0 && in.global_mask.data != nullptr)
    return "global_tokens is " + text(in.global_tokens) + "; it needs to be 0 beside global_mask";
  return "";
}

std::string wrong_offsets(const char* name, const std::vector<index_t>& cu, const char* total_name, index_t total) {
  const std::string what = std::string(name) + " ";
  if (cu.front() < 0) return what + "begins with " + text(cu.front()) + "; it needs to begin with at least 0";
  for (std::size_t s = 1; s < cu.size(); ++s)
    if (cu[s] < cu[s - 1]) return what + "has " + text(cu[s]) + " after " + text(cu[s - 1]) + "; it needs to be non-decreasing";
  if (cu.back() > total) return what + "ends with " + text(cu.back()) + "; it needs to end with at most " + total_name + ", " + text(total);
  return "";
}

std::string wrong_packing(const AttentionInputs& in, const Sizes& n) {
  if (in.cu_q.empty() && in.cu_k.empty()) return "";
  if (in.cu_q.size() != in.cu_k.size())
    return "cu_q has " + text(static_cast<index_t>(in.cu_q.size())) + " values and cu_k has " + text(static_cast<index_t>(in.cu_k.size())) +
           "; they need as many as each other, one more than there are sequences";
  if (n.b != 1) return "q " + shape_text(in.q) + ": dim 0 needs to be 1 where sequences are packed (cu_q)";
  if (in.window.query_offset)
    return "query_offset is " + text(*in.window.query_offset) + "; it needs to be left out where sequences are packed (cu_q)";
  const std::string e = wrong_offsets("cu_q", in.cu_q, "the rows of q", n.lq);
  return e.empty() ? wrong_offsets("cu_k", in.cu_k, "the rows of k", n.lk) : e;
}

// A number for each entry of the batch.
std::string wrong_entries(const char* name, const std::vector<index_t>& of, const Sizes& n, Range allowed, const std::string& need) {
  if (of.empty()) return "";
  if (static_cast<index_t>(of.size()) != n.b)
    return std::string(name) + " has " + text(static_cast<index_t>(of.size())) + " values; it needs one for each of the " + text(n.b) +
           " entries of the batch";
  for (std::size_t b = 0; b < of.size(); ++b)
    if (!allowed.contains(of[b]))
      return std::string(name) + "[" + text(static_cast<index_t>(b)) + "] is " + text(of[b]) + "; it needs to be " + need;
  return "";
}

std::string wrong_lengths_and_offsets(const AttentionInputs& in, const Sizes& n) {
  if (in.key_lengths.empty() && in.query_offsets.empty()) return "";
  const char* first = in.key_lengths.empty() ? "query_offset" : "key_lengths";
  if (!in.cu_q.empty()) return std::string(first) + " is given for each entry; it needs to be left out where sequences are packed (cu_q)";
  if (!in.query_offsets.empty() && in.window.query_offset)
    return "query_offset is " + text(*in.window.query_offset) + " for all entries; it needs to be left out beside one for each";
  const std::string e = wrong_entries("key_lengths", in.key_lengths, n, {0, n.lk + 1}, "from 0 to Lk, " + text(n.lk));
  if (!e.empty()) return e;
  return wrong_entries("query_offset", in.query_offsets, n, {-kUnbounded, kUnbounded + 1}, "from -2^60 to 2^60");
}

// Of the numbers that a GPU alone knows, what can be said without them.
std::string wrong_numbers_there(const AttentionInputs& in, const Sizes& n) {
  const AttentionNumbers& there = in.there;
  const auto wrong_count = [&](const char* name, const NumbersView& of) {
    if (of.data == nullptr || of.count == n.b) return std::string();
    return std::string(name) + " has " + text(of.count) + " values; it needs one for each of the " + text(n.b) + " entries of the batch";
  };
  if (!there.any_of_sequences()) return "";
  if ((there.cu_q.data == nullptr) != (there.cu_k.data == nullptr) || there.cu_q.count != there.cu_k.count)
    return "cu_q and cu_k need to be given together, with as many values";
  if (there.cu_q.data != nullptr) {
    if (there.cu_q.count < 1) return "cu_q has no values; it needs one more than there are sequences";
    if (n.b != 1) return "q " + shape_text(in.q) + ": dim 0 needs to be 1 where sequences are packed (cu_q)";
    if (there.key_lengths.data != nullptr || there.query_offsets.data != nullptr || in.window.query_offset)
      return "key_lengths and query_offset need to be left out where sequences are packed (cu_q)";
  }
  if (there.query_offsets.data != nullptr && in.window.query_offset)
    return "query_offset is " + text(*in.window.query_offset) + " for all entries; it needs to be left out beside one for each";
  const std::string e = wrong_count("key_lengths", there.key_lengths);
  return e.empty() ? wrong_count("query_offset", there.query_offsets) : e;
}

std::string wrong_bias_dtype(const char* name, const TensorView& t, DType dtype) {
  if (t.dtype == dtype || t.dtype == DType::f32) return "";
  return std::string(name) + " is " + name_of(t.dtype) + "; it needs float32 or the dtype of q, " + name_of(dtype);
}

std::string wrong_bias(const AttentionInputs& in, const Sizes& n) {
  const TensorView& bias = in.bias;
  const Window& w = in.window;
  if (!is_given(bias)) return "";
  if (w.left >= kUnbounded || w.right >= kUnbounded)
    return "window: " + std::string(w.left >= kUnbounded ? "left" : "right") + " is unbounded; with bias both sides need a bound";
  if (bias.rank != 2 && bias.rank != 4) return "bias has " + text(bias.rank) + " dims; it needs 2, (H, W), or 4, (B, H, Lq, W)";
  if (std::string e = wrong_bias_dtype("bias", bias, in.q.dtype); !e.empty()) return e;
  const index_t width = w.left + 1 + w.right;
  const std::string letters = std::string(bias.rank == 2 ? "(H, W)" : "(B, H, Lq, W)") + " with W = left + 1 + right";
  return bias.rank == 2 ? wrong_tensor("bias", bias, bias.dtype, letters.c_str(), {n.h, width})
                        : wrong_tensor("bias", bias, bias.dtype, letters.c_str(), {n.b, n.h, n.lq, width});
}

std::string wrong_sinks(const AttentionInputs& in, const Sizes& n) {
  if (!is_given(in.sinks)) return "";
  const std::string e = wrong_bias_dtype("sinks", in.sinks, in.q.dtype);
  return e.empty() ? wrong_tensor("sinks", in.sinks, in.sinks.dtype, "(H,)", {n.h}) : e;
}

std::string wrong_mask(const char* name, const MaskView& mask, const Sizes& n) {
  if (mask.data == nullptr) return "";
  return wrong_memory(name, {const_cast<std::uint8_t*>(mask.data), DType::f32, 2, {n.b, n.lk}, {mask.batch_stride, mask.key_stride}});
}

std::string wrong_inputs(const AttentionInputs& in, const Sizes& n) {
  std::string e = wrong_sides(in.window);
  if (e.empty()) e = wrong_steps(in.window);
  if (e.empty()) e = wrong_numbers(in, n);
  if (e.empty()) e = wrong_packing(in, n);
  if (e.empty()) e = wrong_lengths_and_offsets(in, n);
  if (e.empty()) e = wrong_numbers_there(in, n);
  if (e.empty()) e = wrong_bias(in, n);
  if (e.empty()) e = wrong_sinks(in, n);
  if (e.empty()) e = wrong_mask("key_mask", in.key_mask, n);
  if (e.empty()) e = wrong_mask("global_mask", in.global_mask, n);
  return e;
}

DType dtype_of_lse(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// Beside halves the sums may be asked for as they are.
DType dtype_of_out(const TensorView& out, DType dtype) { return out.dtype == DType::f32 && size_of(dtype) == 2 ? DType::f32 : dtype; }

std::string wrong_lse(const char* name, const TensorView& t, DType dtype, const Sizes& n) {
  if (t.rank == 3 && t.dtype != dtype_of_lse(dtype))
    return std::string(name) + " is " + name_of(t.dtype) + "; it needs " + name_of(dtype_of_lse(dtype)) + " for q of " + name_of(dtype);
  return wrong_tensor(name, t, dtype_of_lse(dtype), "(B, H, Lq)", {n.b, n.h, n.lq});
}

bool is_split(const AttentionCall& call) { return call.op() == Op::attention && call.lse.rank == 4; }

std::string wrong_outputs(const AttentionCall& call, const Sizes& n) {
  const DType dtype = call.in.q.dtype, out_dtype = dtype_of_out(call.out, dtype);
  constexpr const char* letters = "(B, H, Lq, Dv)";
  if (call.op() == Op::attention) {
    std::string e = wrong_output("out", call.out, out_dtype, letters, {n.b, n.h, n.lq, n.dv});
    if (!e.empty() || !is_given(call.lse)) return e;
    e = is_split(call) ? wrong_tensor("lse", call.lse, dtype_of_lse(dtype), "(B, H, Lq, 2)", {n.b, n.h, n.lq, 2})
                       : wrong_lse("lse", call.lse, dtype, n);
    return e.empty() ? overlapping("lse", call.lse) : e;
  }
  std::string e = wrong_tensor("out", call.out, out_dtype, letters, {n.b, n.h, n.lq, n.dv});
  if (e.empty()) e = wrong_lse("lse", call.lse, dtype, n);
  if (e.empty() && out_dtype != dtype) e = wrong_dtype("d_out", *call.d_out, out_dtype, "out");
  if (e.empty()) e = wrong_tensor("d_out", *call.d_out, out_dtype, letters, {n.b, n.h, n.lq, n.dv});
  return e.empty() && is_given(*call.d_lse) ? wrong_lse("d_lse", *call.d_lse, dtype, n) : e;
}

// A gradient has the dtype and the shape of its input.
std::string wrong_gradient(const char* name, const TensorView& t, const char* input_name, const TensorView& input) {
  if (!is_given(t)) return "";
  const std::string what = std::string(name) + " ";
  if (t.dtype != input.dtype)
    return what + "is " + name_of(t.dtype) + "; it needs the dtype of " + input_name + ", " + name_of(input.dtype);
  if (t.rank != input.rank || !std::equal(t.shape, t.shape + t.rank, input.shape))
    return what + (t.rank < 0 || t.rank > TensorView::kMaxRank ? "of " + text(t.rank) + " dims" : shape_text(t)) + " needs the shape of " +
           input_name + ", " + shape_text(input);
  const std::string e = wrong_memory(name, t);
  return e.empty() ? overlapping(name, t) : e;
}

std::string wrong_gradients(const AttentionCall& call) {
  if (call.gradients == nullptr) return "";
  const AttentionGradients& g = *call.gradients;
  if (is_given(g.d_bias) && !is_given(call.in.bias)) return "d_bias is given; it needs to be left out where there is no bias";
  if (is_given(g.d_sinks) && !is_given(call.in.sinks)) return "d_sinks is given; it needs to be left out where there are no sinks";
  std::string e = wrong_gradient("d_q", g.d_q, "q", call.in.q);
  if (e.empty()) e = wrong_gradient("d_k", g.d_k, "k", call.in.k);
  if (e.empty()) e = wrong_gradient("d_v", g.d_v, "v", call.in.v);
  if (e.empty()) e = wrong_gradient("d_bias", g.d_bias, "bias", call.in.bias);
  return e.empty() ? wrong_gradient("d_sinks", g.d_sinks, "sinks", call.in.sinks) : e;
}

std::string wrong(const AttentionCall& call, Problem* problem, Args* args) {
  Sizes n{};
  std::string e = wrong_operands(call.in, &n);
  if (e.empty()) e = wrong_inputs(call.in, n);
  if (e.empty()) e = wrong_outputs(call, n);
  if (e.empty()) e = wrong_gradients(call);
  if (!e.empty()) return e;
  problem->attention.split_lse = is_given(call.lse) && is_split(call);
  fill(call, n, problem, &args->attention);
  return wrong_dilation(call.in.window, call.out, problem);
}

}  // namespace

Status validate(const AttentionCall& call, Problem* problem, Args* args) {
  const std::string e = wrong(call, problem, args);
  return e.empty() ? Status() : invalid_argument(std::string(name_of(call.op())) + ": " + e);
}

}  // namespace window_matmul
