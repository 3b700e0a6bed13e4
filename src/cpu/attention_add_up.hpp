// src/cpu/attention_add_up.hpp: the second phase of attention's backward pass.
#pragma once

#include "cpu/attention_items.hpp"

namespace window_matmul::cpu {

// d_k and d_v of the keys that no item wrote alone, d_q of global queries, d_bias of a slot, d_sinks.
void add_up(const Run& run, const Executor& executor);

}  // namespace window_matmul::cpu
