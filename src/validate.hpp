// src/validate.hpp: the only place that says no to arguments.
#pragma once

#include "window_matmul/ops.hpp"

namespace window_matmul {

struct Call {  // what the caller gave, before any check
  Op op;
  const Window& window;
  const TensorView& x;
  const TensorView* y;  // null for the softmax
  const TensorView& out;
  index_t num_keys;  // for the two softmax ops
  double fill;
};

// Checks everything and fills in the problem and the views, leading dims expanded to those of the output.
Status validate(const Call& call, Problem* problem, Args* args);

}  // namespace window_matmul
