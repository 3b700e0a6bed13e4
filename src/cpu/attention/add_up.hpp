// src/cpu/attention/add_up.hpp: the second phase of attention's backward pass.
#pragma once

#include "cpu/attention/items.hpp"

namespace window_matmul::cpu {

// d_k and d_v of the keys that no item wrote alone, and d_q of global queries; d_bias of a slot and d_sinks are added to the totals.
void add_up(const Run& run, const Executor& executor);
// The totals of all items, rounded and written.
void store_totals(const AttentionPlan& plan, const std::byte* totals);

}  // namespace window_matmul::cpu
