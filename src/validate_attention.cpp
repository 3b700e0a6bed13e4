// src/validate_attention.cpp: checks of the arguments of fused attention; each message names the argument, what it got and what it needs.
#include "validate_attention.hpp"

#include <algorithm>
#include <cmath>

#include "checks.hpp"
#include "validate_sequences.hpp"

namespace window_matmul {
namespace {

using namespace checks;
using Shape = std::initializer_list<index_t>;

bool is_given(const TensorView& t) { return t.data != nullptr; }

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

// ---- what is filled in --------------------------------------------------------------------------------------------------------------

// With a bias, sides count its slots, and stay as they are.
void fill_band(const AttentionInputs& in, const Sizes& n, Problem* p) {
  AttentionOptions& a = p->attention;
  p->band = {n.lq, n.lk, in.window.left, in.window.right, in.window.query_offset.value_or(n.lk - n.lq)};
  a.cu_q = in.cu_q, a.cu_k = in.cu_k, a.key_lengths = in.key_lengths, a.shifts = in.query_offsets;
  if (a.shifts.empty() && !in.window.query_offset)
    for (const index_t length : a.key_lengths) a.shifts.push_back(length - n.lq);
  a.packed_there = in.there.cu_q.data != nullptr;
  a.aligns_last = in.there.key_lengths.data != nullptr && in.there.query_offsets.data == nullptr && !in.window.query_offset;
  if (is_given(in.bias)) return;
  if (in.there.query_offsets.data != nullptr) {  // what can be seen from there is for the kernels to say
    p->band.left = smaller(p->band.left, kUnbounded), p->band.right = smaller(p->band.right, kUnbounded);
    return;
  }
  Band longest = without_overhang(p->band);
  for (const index_t shift : a.shifts) {
    const Band other = without_overhang({n.lq, n.lk, in.window.left, in.window.right, shift});
    longest.left = larger(longest.left, other.left), longest.right = larger(longest.right, other.right);
  }
  p->band = longest;
}

// (H, W) as (B, H, Lq, W).
TensorView expanded_bias(const TensorView& bias, const Sizes& n) {
  if (bias.rank != 2) return bias;
  return {bias.data, bias.dtype, 4, {n.b, n.h, n.lq, bias.shape[1]}, {0, bias.stride[0], 0, bias.stride[1]}};
}

bool has_sequence_of_aligned_keys(const Problem& p) {
  const AttentionOptions& a = p.attention;
  const auto is_aligned = [](const Band& band) { return band.rows == band.cols && band.shift == 0; };
  if (a.cu_q.empty() && a.key_lengths.empty() && a.shifts.empty()) return is_aligned(p.band);
  for (index_t s = 0; s < num_sequences(p); ++s)
    if (is_aligned(sequence_of(p, s).band)) return true;
  return false;
}

void fill_options(const AttentionInputs& in, const Sizes& n, Problem* p) {
  AttentionOptions& a = p->attention;
  a.kv_heads = n.hkv, a.value_dim = n.dv;
  a.scale = in.scale ? *in.scale : 1 / std::sqrt(static_cast<double>(n.d));
  a.softcap = in.softcap, a.dropout_p = in.dropout_p;
  a.dropout_elsewhere = a.dropout_p > 0 && in.dropout_places.queries != nullptr;
  if (is_given(in.bias)) a.bias = in.bias.rank == 2 ? AttentionOptions::Bias::per_slot : AttentionOptions::Bias::full;
  a.key_mask = in.key_mask.data != nullptr, a.sinks = is_given(in.sinks), a.global_mask = in.global_mask.data != nullptr;
  a.global_tokens = smaller(in.global_tokens, n.lk);
  a.global_queries =
      (a.global_mask || a.global_tokens > 0) && p->band.right > 0 && (in.there.any_of_sequences() || has_sequence_of_aligned_keys(*p));
}

void fill_args(const AttentionCall& call, const Sizes& n, AttentionArgs* a) {
  const AttentionInputs& in = call.in;
  a->q = in.q, a->k = in.k, a->v = in.v, a->sinks = in.sinks;
  a->key_mask = in.key_mask, a->global_mask = in.global_mask, a->dropout_seed = in.dropout_seed, a->dropout_places = in.dropout_places;
  a->there = in.there;
  a->out = call.out, a->lse = call.lse;
  if (is_given(in.bias)) a->bias = expanded_bias(in.bias, n);
  if (call.gradients == nullptr) return;
  const AttentionGradients& g = *call.gradients;
  a->d_out = *call.d_out, a->d_lse = *call.d_lse;
  a->d_q = g.d_q, a->d_k = g.d_k, a->d_v = g.d_v, a->d_sinks = g.d_sinks;
  if (is_given(g.d_bias)) a->d_bias = expanded_bias(g.d_bias, n);
}

std::string wrong(const AttentionCall& call, Problem* problem, Args* args) {
  Sizes n{};
  std::string e = wrong_operands(call.in, &n);
  if (e.empty()) e = wrong_inputs(call.in, n);
  if (e.empty()) e = wrong_outputs(call, n);
  if (e.empty()) e = wrong_gradients(call);
  if (!e.empty()) return e;
  problem->op = call.op(), problem->dtype = call.in.q.dtype, problem->batch = n.b, problem->heads = n.h, problem->dim = n.d;
  fill_band(call.in, n, problem);
  fill_options(call.in, n, problem);
  problem->attention.wide_out = call.out.dtype != call.in.q.dtype, problem->attention.split_lse = is_given(call.lse) && is_split(call);
  fill_args(call, n, &args->attention);
  return wrong_dilation(call.in.window, call.out, problem);
}

}  // namespace

Status validate(const AttentionCall& call, Problem* problem, Args* args) {
  const std::string e = wrong(call, problem, args);
  return e.empty() ? Status() : invalid_argument(std::string(name_of(call.op())) + ": " + e);
}

}  // namespace window_matmul
