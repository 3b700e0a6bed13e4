// src/cuda/kernels/table.cuh: every kernel that `configure` can choose, as a type.
#pragma once

#include "cuda/kernels/band/in.cuh"
#include "cuda/kernels/band/out.cuh"
#include "cuda/kernels/band/softmax.cuh"
#include "cuda/kernels/choice.hpp"

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

template <class E, int Lanes>
struct SoftmaxKernel {
  static constexpr int kBlocksAtOnce =
      sizeof(E) == 8 && Lanes == kThreads ? 1 : 2;  // two wait for memory in turn; fp64's exp takes registers
  static constexpr std::size_t kSharedBytes = softmax_shared(Lanes, sizeof(E));
  WINDOW_MATMUL_DEVICE static void run(const Launch& launch) { softmax_rows_of<Softmax<E, Lanes>, E, Lanes>(launch); }
};
template <class E, int Lanes>
struct SoftmaxBackwardKernel {
  static constexpr int kBlocksAtOnce = 2;
  static constexpr std::size_t kSharedBytes = softmax_shared(Lanes, sizeof(E));
  WINDOW_MATMUL_DEVICE static void run(const Launch& launch) { softmax_rows_of<SoftmaxBackward<E, Lanes>, E, Lanes>(launch); }
};

template <class E, template <class, int> class Kernel, bool Backward, class F>
void with_softmax_of(const Plan& plan, F&& f) {
  constexpr int kFewest = softmax_fewest_lanes(Backward, sizeof(E));
  if (plan.lanes == kFewest) return f.template operator()<Kernel<E, kFewest>>();
  if (plan.lanes == 32) return f.template operator()<Kernel<E, 32>>();
  f.template operator()<Kernel<E, kThreads>>();
}

template <class E, class F>
void with_product_of(const Plan& plan, F&& f) {
  if (plan.op == Op::band_out) return f.template operator()<BandOutKernel<E>>();
  const bool transposed = plan.op == Op::band_in_transposed;
  if constexpr (sizeof(E) <= 4) {
    if (plan.panels == 2 && transposed) return f.template operator()<BandInKernel<E, true, 2>>();
    if (plan.panels == 2) return f.template operator()<BandInKernel<E, false, 2>>();
  }
  if (transposed) return f.template operator()<BandInKernel<E, true, 1>>();
  f.template operator()<BandInKernel<E, false, 1>>();
}

// Calls f.operator()<Kernel>() with the kernel of a plan.
template <class E, class F>
void with_kernel_of(const Plan& plan, F&& f) {
  if constexpr (!std::is_same_v<E, tf32x3>) {
    if (plan.op == Op::softmax) return with_softmax_of<E, SoftmaxKernel, false>(plan, f);
    if (plan.op == Op::softmax_backward) return with_softmax_of<E, SoftmaxBackwardKernel, true>(plan, f);
  }
  with_product_of<E>(plan, f);
}

}  // namespace window_matmul::cuda
