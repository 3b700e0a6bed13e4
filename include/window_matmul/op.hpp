// include/window_matmul/op.hpp: the operators, and how exact their products are to be.
#pragma once

#include <cstdint>

namespace window_matmul {

// Letters: Lq queries, Lk keys, N head dim, W = left + 1 + right; j(i, c) = i + shift + (c - left) * dilation.
enum class Op : std::uint8_t {
  band_out,            // out[i,c] = sum_n x[i,n] * y[n,j(i,c)]              x (Lq, N), y (N, Lk)  -> (Lq, W): window_matmul
  band_in,             // out[i,n] = sum_c x[i,c] * y[j(i,c),n]              x (Lq, W), y (Lk, N)  -> (Lq, N): unwindow_matmul
  band_in_transposed,  // out[j,n] = sum over (i,c) with j(i,c) = j of x[i,c] * y[i,n]   x (Lq, W), y (Lq, N)  -> (Lk, N)
  softmax,             // softmax over the slots of a row whose key exists, 0 elsewhere  x (Lq, W)             -> (Lq, W)
  softmax_backward,    // out = y * (x - sum_c y*x)                          x = gradient, y = probabilities   -> (Lq, W)
  attention,           // AttentionArgs: q, k, v -> out, lse
  attention_backward,  // AttentionArgs: q, k, v, out, lse, d_out, d_lse -> d_q, d_k, d_v, d_bias, d_sinks
};
const char* name_of(Op op);
constexpr bool is_attention(Op op) { return op == Op::attention || op == Op::attention_backward; }

// How products of fp32 are taken on GPUs, as torch's float32 matmul precision says. high: three products of TF32, nearly as exact.
enum class Precision : std::uint8_t { highest, high };

}  // namespace window_matmul
