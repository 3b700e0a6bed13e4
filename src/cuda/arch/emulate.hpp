// src/cuda/arch/emulate.hpp: one grid in the emulation; a file of kernels for each element type, as for GPUs (enqueue.hpp).
#pragma once

#include "cuda/emulation/block.hpp"
#include "cuda/plan.hpp"

namespace window_matmul::cuda::emulation {

// Defined in emulated_<type>.cpp for the type of each.
template <class E>
void emulate(const Plan& plan, const Launch& launch, index_t blocks, GlobalMemory& global, Report& report, const Settings& settings);
// Likewise; in emulated_attention_<type>.cpp.
template <class E>
void emulate_attention(const Plan& plan, const AttentionLaunch& launch, index_t blocks, GlobalMemory& global, Report& report,
                       const Settings& settings);

// Likewise; in emulated_backward_<type>.cpp.
template <class E>
void emulate_backward(const Plan& plan, const AttentionLaunch& launch, index_t blocks, GlobalMemory& global, Report& report,
                      const Settings& settings);

}  // namespace window_matmul::cuda::emulation
