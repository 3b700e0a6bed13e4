// src/validate_attention.hpp: the only place that says no to arguments of fused attention.
#pragma once

#include "window_matmul/attention.hpp"

namespace window_matmul {

struct AttentionCall {  // what the caller gave, before any check
  const AttentionInputs& in;
  const TensorView &out, &lse;
  const TensorView *d_out = nullptr, *d_lse = nullptr;  // these three: backward
  const AttentionGradients* gradients = nullptr;

  Op op() const { return gradients == nullptr ? Op::attention : Op::attention_backward; }
};

// Checks everything and fills in the problem and the views.
Status validate(const AttentionCall& call, Problem* problem, Args* args);

}  // namespace window_matmul
