// src/cuda/arch/entry.cuh: a kernel as an entry function, and its launch.
#pragma once

#include "cuda/kernels/choice.hpp"

namespace window_matmul::cuda {
namespace {

template <class Kernel>
constexpr int threads_of() {
  if constexpr (requires { Kernel::kThreads; })
    return Kernel::kThreads;
  else
    return kThreads;
}

template <class Kernel, class AnyLaunch>
__global__ void __launch_bounds__(threads_of<Kernel>(), Kernel::kBlocksAtOnce) entry(const __grid_constant__ AnyLaunch launch) {
  Kernel::run(launch);
}

template <class Kernel, class AnyLaunch>
cudaError_t enqueue_kernel(const Plan& plan, const AnyLaunch& launch, cudaStream_t stream) {
  const auto kernel = entry<Kernel, AnyLaunch>;
  const auto shared = static_cast<int>(Kernel::kSharedBytes);
  if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); e != cudaSuccess) return e;
  const auto blocks = static_cast<unsigned>(smaller(launch.items, plan.max_blocks));
  kernel<<<blocks, threads_of<Kernel>(), Kernel::kSharedBytes, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace
}  // namespace window_matmul::cuda
