// src/cuda/kernels/attention/backward_table.cuh: every backward kernel of fused attention that `configure` can choose, as a type.
#pragma once

#include "cuda/kernels/attention/backward_keys.cuh"
#include "cuda/kernels/attention/backward_queries.cuh"
#include "cuda/kernels/attention/backward_slots.cuh"
#include "cuda/kernels/choice.hpp"

namespace window_matmul::cuda {

template <class E, int Dim, bool Options, class F>
void with_backward_kernel(AttentionKernel kernel, F&& f) {
  if (kernel == AttentionKernel::backward_queries) return f.template operator()<BackwardQueriesKernel<E, Dim, Options>>();
  if constexpr (holds_both_sums(Dim, sizeof(E), Options)) {
    f.template operator()<BackwardKeysKernel<E, Dim, Options, Gradients::both>>();
  } else {
    if (kernel == AttentionKernel::backward_keys) return f.template operator()<BackwardKeysKernel<E, Dim, Options, Gradients::of_keys>>();
    f.template operator()<BackwardKeysKernel<E, Dim, Options, Gradients::of_values>>();
  }
}

// Calls f.operator()<Kernel>() with the kernel of a launch.
template <class E, int Dim, class F>
void with_backward_kernel_of(const Plan& plan, AttentionKernel kernel, F&& f) {
  if (kernel == AttentionKernel::backward_slots) return f.template operator()<BackwardSlotsKernel<E, Dim>>();
  if (kernel == AttentionKernel::slot_sums) return f.template operator()<SlotSumsKernel<E, Dim>>();
  if (kernel == AttentionKernel::sink_sums) return f.template operator()<SinkSumsKernel<E, Dim>>();
  if constexpr (has_kernel_without_options(Dim, sizeof(E))) {
    if (!plan.options) return with_backward_kernel<E, Dim, false>(kernel, f);
  }
  with_backward_kernel<E, Dim, true>(kernel, f);
}

}  // namespace window_matmul::cuda
