// src/attention.cpp: fused attention: validate -> launch.
#include "window_matmul/attention.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "launch.hpp"
#include "validate_attention.hpp"

namespace window_matmul {
namespace {

// Calls f with the address of every element.
template <class F>
void for_each_element(const TensorView& t, F f, int dim = 0, index_t offset = 0) {
  if (dim == t.rank) return f(static_cast<std::byte*>(t.data) + offset * static_cast<index_t>(size_of(t.dtype)));
  for (index_t i = 0; i < t.shape[dim]; ++i) for_each_element(t, f, dim + 1, offset + i * t.stride[dim]);
}

bool has_elements(const TensorView& t) { return t.data != nullptr && std::find(t.shape, t.shape + t.rank, 0) == t.shape + t.rank; }

void clear(const TensorView& t) {
  if (has_elements(t)) for_each_element(t, [&](std::byte* at) { std::memset(at, 0, size_of(t.dtype)); });
}

void fill_with_minus_infinity(const TensorView& lse) {
  if (!has_elements(lse)) return;
  for_each_element(lse, [&](std::byte* at) {
    const double wide = -std::numeric_limits<double>::infinity();
    const float narrow = -std::numeric_limits<float>::infinity();
    std::memcpy(at, lse.dtype == DType::f64 ? static_cast<const void*>(&wide) : &narrow, size_of(lse.dtype));
  });
}

// Where there are no queries or no keys at all, nothing is seen.
void write_nothing_seen(const AttentionCall& call) {
  if (call.op() == Op::attention) {
    clear(call.out);
    fill_with_minus_infinity(call.lse);
  } else {
    const AttentionGradients& g = *call.gradients;
    for (const TensorView* gradient : {&g.d_q, &g.d_k, &g.d_v, &g.d_bias, &g.d_sinks}) clear(*gradient);
  }
}

Status run(const AttentionCall& call, const RunOptions& options) {
  if (options.stats != nullptr) *options.stats = {};
  Problem problem;
  Args args;
  if (Status status = validate(call, &problem, &args); !status.ok()) return status;
  const bool nothing_to_see = problem.batch == 0 || problem.heads == 0 || problem.band.rows == 0 || problem.band.cols == 0;
  Status status = launch(problem, args, options, nothing_to_see);
  if (status.ok() && nothing_to_see) write_nothing_seen(call);
  return status;
}

}  // namespace

Status window_attention(const AttentionInputs& in, const TensorView& out, const TensorView& lse, const RunOptions& options) {
  return run({.in = in, .out = out, .lse = lse}, options);
}

Status window_attention_backward(const AttentionInputs& in, const TensorView& out, const TensorView& lse, const TensorView& d_out,
                                 const TensorView& d_lse, const AttentionGradients& gradients, const RunOptions& options) {
  return run({in, out, lse, &d_out, &d_lse, &gradients}, options);
}

}  // namespace window_matmul
