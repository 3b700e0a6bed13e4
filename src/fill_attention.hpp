// src/fill_attention.hpp: what kernels of fused attention are told, from arguments that were checked.
#pragma once

#include "validate_attention.hpp"

namespace window_matmul {

struct AttentionSizes {  // the letters
  index_t b, h, lq, d, hkv, lk, dv;
};

inline bool is_given(const TensorView& t) { return t.data != nullptr; }

void fill(const AttentionCall& call, const AttentionSizes& n, Problem* problem, AttentionArgs* args);

}  // namespace window_matmul
