// include/window_matmul/attention.hpp: fused windowed attention, softmax(scale q kT) v over each query's window, and its backward.
//
// Letters: B batch, H heads, Hkv key/value heads (H a multiple of Hkv), Lq / Lk lengths, D head dim, Dv value dim, W = left + 1 + right.
// Scores: s = scale q.k; softcap > 0: s = softcap tanh(s / softcap); then + bias; then the softmax over everything the query sees, with the
// sink as one more logit of the denominator. Memory beyond inputs and outputs does not grow with Lq * W. Results do not depend on the
// executor, bit for bit. A query that sees no key: output 0, lse -inf, gradients 0. What a query does not see never influences its row.
#pragma once

#include "window_matmul/ops.hpp"

namespace window_matmul {

// What is given. Views without data are options that are not used. All strides are free.
struct AttentionInputs {
  TensorView q;  // (B, H, Lq, D); f64, f32, bf16 or f16. Packed sequences: (1, H, total_q, D)
  TensorView k;  // (B, Hkv, Lk, D), q's dtype
  TensorView v;  // (B, Hkv, Lk, Dv), q's dtype
  Window window;  // a side of kUnbounded (or more than the sequence) sees everything
  std::optional<double> scale{};  // by default 1 / sqrt(D), which needs D > 0
  double softcap = 0;  // 0: none
  TensorView bias{};  // (H, W), or (B, H, Lq, W); q's dtype or f32; needs a bounded window. -inf hides the key
  TensorView sinks{};  // (H,), q's dtype or f32
  MaskView key_mask{};  // true: may be seen
  MaskView global_mask{};  // true: seen by every query; where Lq == Lk, shift 0 and right > 0, such queries see every key
  index_t global_tokens = 0;  // the same for the first so many keys (of each sequence); not beside global_mask
  double dropout_p = 0;
  std::uint64_t dropout_seed = 0;
  DropoutPlaces dropout_places{};
  // Packed sequences: s holds queries [cu_q[s], cu_q[s + 1]) and keys likewise; both empty for a batch. Rows in front of the first and
  // behind the last are not read: 0 in out and in all gradients, -inf in lse.
  std::vector<index_t> cu_q{}, cu_k{};
  // Of each entry of the batch; empty: all alike. Keys from key_lengths[b] on are not read, and have gradients 0; without an offset
  // the last query is aligned with key key_lengths[b] - 1. query_offsets stand for window.query_offset.
  std::vector<index_t> key_lengths{}, query_offsets{};
  // The same, and dropout_seed, in the memory of a GPU, where the tensors are there. The values are not checked.
  AttentionNumbers there{};
};

// out (B, H, Lq, Dv), q's dtype or f32 beside halves; lse (B, H, Lq), f32 (f64 for f64), natural logarithm without the sink; without data
// it is not written. An lse of (B, H, Lq, 2) takes it in two: the highest score, and the log of the sum of exp(score - highest).
Status window_attention(const AttentionInputs&, const TensorView& out, const TensorView& lse, const RunOptions& = {});

struct AttentionGradients {  // d_q, d_k, d_v like q, k, v; d_bias and d_sinks like bias and sinks. Those without data are not computed
  TensorView d_q{}, d_k{}, d_v{}, d_bias{}, d_sinks{};
};

// out and lse, in one number, are those of the forward call with the same inputs; d_out like out; d_lse like lse, or without data (zeros).
Status window_attention_backward(const AttentionInputs&, const TensorView& out, const TensorView& lse, const TensorView& d_out,
                                 const TensorView& d_lse, const AttentionGradients&, const RunOptions& = {});

}  // namespace window_matmul
