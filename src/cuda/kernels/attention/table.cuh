// src/cuda/kernels/attention/table.cuh: every kernel of fused attention that `configure` can choose, as a type.
#pragma once

#include "cuda/kernels/attention/forward.cuh"
#include "cuda/kernels/attention/join.cuh"
#include "cuda/plan.hpp"

namespace window_matmul::cuda {

template <template <class, int, bool> class Kernel, class E, int Dim, class F>
void with_options(const Plan& plan, F&& f) {
  if (plan.options) return f.template operator()<Kernel<E, Dim, true>>();
  f.template operator()<Kernel<E, Dim, false>>();
}
template <template <class, int, bool> class Kernel, class E, class F>
void with_head_dim(const Plan& plan, F&& f) {
  if constexpr (sizeof(E) == 2) {
    if (plan.head_dim == 256) return with_options<Kernel, E, 256>(plan, f);
  }
  if (plan.head_dim == 128) return with_options<Kernel, E, 128>(plan, f);
  with_options<Kernel, E, 64>(plan, f);
}

// Calls f.operator()<Kernel>() with the kernel of a launch.
template <class E, class F>
void with_attention_kernel_of(const Plan& plan, AttentionKernel kernel, F&& f) {
  if (kernel == AttentionKernel::join) return f.template operator()<AttentionJoinKernel<E>>();
  with_head_dim<AttentionForwardKernel, E>(plan, f);
}

}  // namespace window_matmul::cuda
