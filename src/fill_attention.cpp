// src/fill_attention.cpp: the problem and the views of a call of fused attention.
#include "fill_attention.hpp"

#include <cmath>

namespace window_matmul {
namespace {

// With a bias, sides count its slots, and stay as they are.
void fill_band(const AttentionInputs& in, const AttentionSizes& n, Problem* p) {
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
TensorView expanded_bias(const TensorView& bias, const AttentionSizes& n) {
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

void fill_options(const AttentionInputs& in, const AttentionSizes& n, Problem* p) {
  AttentionOptions& a = p->attention;
  a.kv_heads = n.hkv, a.value_dim = n.dv;
  a.scale = in.scale ? *in.scale : 1 / std::sqrt(static_cast<double>(n.d));
  a.softcap = in.softcap, a.dropout_p = in.dropout_p;
  if (is_given(in.bias)) a.bias = in.bias.rank == 2 ? AttentionOptions::Bias::per_slot : AttentionOptions::Bias::full;
  a.key_mask = in.key_mask.data != nullptr, a.sinks = is_given(in.sinks), a.global_mask = in.global_mask.data != nullptr;
  a.global_tokens = smaller(in.global_tokens, n.lk);
  a.global_queries =
      (a.global_mask || a.global_tokens > 0) && p->band.right > 0 && (in.there.any_of_sequences() || has_sequence_of_aligned_keys(*p));
}

void fill_args(const AttentionCall& call, const AttentionSizes& n, AttentionArgs* a) {
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

}  // namespace

void fill(const AttentionCall& call, const AttentionSizes& n, Problem* problem, AttentionArgs* args) {
  problem->op = call.op(), problem->dtype = call.in.q.dtype, problem->batch = n.b, problem->heads = n.h, problem->dim = n.d;
  fill_band(call.in, n, problem);
  fill_options(call.in, n, problem);
  problem->attention.wide_out = call.out.dtype != call.in.q.dtype;
  fill_args(call, n, args);
}

}  // namespace window_matmul
