// src/cuda/kernels/attention/table.cuh: every kernel of fused attention that `configure` can choose, as a type.
#pragma once

#include "cuda/kernels/attention/forward.cuh"
#include "cuda/kernels/attention/join.cuh"
#include "cuda/kernels/choice.hpp"

namespace window_matmul::cuda {

// Calls f.operator()<Kernel>() with the kernel of a launch.
template <class E, int Dim, class F>
void with_attention_kernel_of(const Plan& plan, AttentionKernel kernel, F&& f) {
  if constexpr (Dim == kJoinHeadDim) {
    if (kernel == AttentionKernel::join) return f.template operator()<AttentionJoinKernel<E>>();
  }
  if constexpr (has_forward_without_options(Dim)) {
    if (!plan.options) return f.template operator()<AttentionForwardKernel<E, Dim, false>>();
  }
  f.template operator()<AttentionForwardKernel<E, Dim, true>>();
}

}  // namespace window_matmul::cuda
