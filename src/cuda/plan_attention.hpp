// src/cuda/plan_attention.hpp: what the plans of forward and backward have in common.
#pragma once

#include "cuda/plan.hpp"

namespace window_matmul::cuda {

int attention_head_dim(const Problem& p);  // what D and Dv are padded to
Strided strided(const TensorView& t);
AttentionLaunch attention_launch_of(const Problem& p, const AttentionArgs& args);  // of all heads, without items

bool has_backward_options(const Problem& p);  // of the kernels that take it
bool supports_backward(const Problem& p, std::string* why_not);

}  // namespace window_matmul::cuda
