// src/c_api/attention.cpp: fused attention for C callers.
#include "window_matmul/attention.hpp"

#include <algorithm>

#include "convert.hpp"

using namespace window_matmul;
using namespace window_matmul::c_api;

namespace {

void set_dropout(const wm_attention_options& options, AttentionInputs* in) {
  in->dropout_p = options.dropout_p, in->dropout_seed = options.dropout_seed;
  in->dropout_places = {options.dropout_sequences, options.dropout_queries, options.dropout_keys};
}

// An empty list says "not given" to the core: where one is needed it is refused here.
std::vector<index_t> list_of(const char* name, const wm_tensor* tensor, index_t count, const char* need) {
  std::vector<index_t> numbers = numbers_if_given(name, tensor);
  if (tensor != nullptr && numbers.empty() && count > 0) throw Refusal{std::string(name) + " is (0); it needs to be " + need};
  return numbers;
}

AttentionInputs inputs_of(const wm_window* window, const wm_tensor* q, const wm_tensor* k, const wm_tensor* v,
                          const wm_attention_options* given) {
  wm_attention_options options = WM_ATTENTION_OPTIONS_INIT;
  if (given != nullptr) copy_known("options", "WM_ATTENTION_OPTIONS_INIT", given, given->size, &options, sizeof options);
  AttentionInputs in{.q = view_of("q", q), .k = view_of("k", k), .v = view_of("v", v), .window = window_of(window)};
  if (options.scale != nullptr) in.scale = *options.scale;
  in.softcap = options.softcap;
  in.bias = view_if_given("bias", options.bias), in.sinks = view_if_given("sinks", options.sinks);
  const index_t batch = in.q.shape[0], num_keys = in.k.shape[2];  // of other ranks the core refuses q and k
  in.key_mask = mask_if_given("key_mask", options.key_mask, batch, num_keys);
  in.global_mask = mask_if_given("global_mask", options.global_mask, batch, num_keys);
  in.global_tokens = options.global_tokens;
  in.cu_q = list_of("cu_q", options.cu_q, 1, "(number of sequences + 1,)");
  in.cu_k = list_of("cu_k", options.cu_k, 1, "(number of sequences + 1,)");
  in.key_lengths = list_of("key_lengths", options.key_lengths, batch, "(B,)");
  in.query_offsets = list_of("query_offsets", options.query_offsets, batch, "(B,)");
  set_dropout(options, &in);
  return in;
}

// Products of the forward pass; those of the backward pass are two and a half times as many.
double multiply_adds(const AttentionInputs& in) {
  const double width = static_cast<double>(in.window.left) + static_cast<double>(in.window.right) + 1;
  double work = std::min(width + static_cast<double>(in.global_tokens), static_cast<double>(in.k.shape[2]));
  for (int dim = 0; dim < 3; ++dim) work *= static_cast<double>(in.q.shape[dim]);
  return work * static_cast<double>(in.q.shape[3] + in.v.shape[3]);
}

}  // namespace

int wm_window_attention(const wm_window* window, const wm_tensor* q, const wm_tensor* k, const wm_tensor* v,
                        const wm_attention_options* options, const wm_tensor* out, const wm_tensor* lse) {
  return guarded([&] {
    const AttentionInputs in = inputs_of(window, q, k, v, options);
    return window_attention(in, view_of("out", out), view_if_given("lse", lse), options_for(multiply_adds(in)));
  });
}

int wm_window_attention_backward(const wm_window* window, const wm_tensor* q, const wm_tensor* k, const wm_tensor* v,
                                 const wm_attention_options* options, const wm_tensor* out, const wm_tensor* lse, const wm_tensor* d_out,
                                 const wm_tensor* d_lse, const wm_attention_gradients* gradients) {
  return guarded([&] {
    const AttentionInputs in = inputs_of(window, q, k, v, options);
    wm_attention_gradients to = WM_ATTENTION_GRADIENTS_INIT;
    if (gradients == nullptr) throw Refusal{"gradients is null; it needs to be a wm_attention_gradients"};
    copy_known("gradients", "WM_ATTENTION_GRADIENTS_INIT", gradients, gradients->size, &to, sizeof to);
    const AttentionGradients views{view_if_given("d_q", to.d_q), view_if_given("d_k", to.d_k), view_if_given("d_v", to.d_v),
                                   view_if_given("d_bias", to.d_bias), view_if_given("d_sinks", to.d_sinks)};
    return window_attention_backward(in, view_of("out", out), view_of("lse", lse), view_of("d_out", d_out), view_if_given("d_lse", d_lse),
                                     views, options_for(2.5 * multiply_adds(in)));
  });
}
