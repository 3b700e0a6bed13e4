// src/reference/attention.hpp: fused attention, forward and backward, from its definition.
#pragma once

#include "window_matmul/problem.hpp"

namespace window_matmul::reference {

void attention(const Problem&, const AttentionArgs&);
void attention_backward(const Problem&, const AttentionArgs&);

}  // namespace window_matmul::reference
