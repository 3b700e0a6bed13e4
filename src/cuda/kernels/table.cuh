// src/cuda/kernels/table.cuh: every kernel that `configure` can choose, as a type.
#pragma once

#include "cuda/kernels/band_in.cuh"
#include "cuda/kernels/band_out.cuh"
#include "cuda/plan.hpp"

namespace window_matmul::cuda {

template <class E>
struct BandOutKernel {
  static constexpr int kBlocksAtOnce = 1;  // on a multiprocessor, at least: what is left of the registers for a thread
  static constexpr std::size_t kSharedBytes = BandOut<E>::kSharedBytes;
  WINDOW_MATMUL_DEVICE static void run(const Launch& launch) { band_out<E>(launch); }
};
template <class E, bool Transposed, int Panels>
struct BandInKernel {
  static constexpr int kBlocksAtOnce = 1;
  static constexpr std::size_t kSharedBytes = BandIn<E, Transposed, Panels>::kSharedBytes;
  WINDOW_MATMUL_DEVICE static void run(const Launch& launch) { band_in<E, Transposed, Panels>(launch); }
};

// Calls f.operator()<Kernel>() with the kernel of a plan.
template <class E, class F>
void with_kernel_of(const Plan& plan, F&& f) {
  if (plan.op == Op::band_out) return f.template operator()<BandOutKernel<E>>();
  const bool transposed = plan.op == Op::band_in_transposed;
  if constexpr (sizeof(E) <= 4) {
    if (plan.panels == 2 && transposed) return f.template operator()<BandInKernel<E, true, 2>>();
    if (plan.panels == 2) return f.template operator()<BandInKernel<E, false, 2>>();
  }
  if (transposed) return f.template operator()<BandInKernel<E, true, 1>>();
  f.template operator()<BandInKernel<E, false, 1>>();
}

}  // namespace window_matmul::cuda
