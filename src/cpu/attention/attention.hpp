// src/cpu/attention/attention.hpp: fused attention cut into items that any thread may take: forward and backward.
#pragma once

#include "cpu/attention/block.hpp"
#include "window_matmul/problem.hpp"
#include "window_matmul/status.hpp"

namespace window_matmul::cpu {

Config configure_attention(const Problem& problem);
Config configure_attention_in_pairs(const Problem& problem);  // for the kernels of bf16 on tiles
Status run_attention(AttentionKernel kernel, const Problem& problem, const Config& config, const Args& args);
Status run_attention_backward(AttentionKernel kernel, const Problem& problem, const Config& config, const Args& args);

}  // namespace window_matmul::cpu
