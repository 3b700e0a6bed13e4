// src/cuda/arch/enqueue.cuh: the kernels of one element type as entry functions, and their launch.
#pragma once

#include "cuda/arch/enqueue.hpp"
#include "cuda/kernels/table.cuh"

namespace window_matmul::cuda {
namespace {

template <class Kernel>
__global__ void __launch_bounds__(kThreads, Kernel::kBlocksAtOnce) entry(const __grid_constant__ Launch launch) {
  Kernel::run(launch);
}

template <class Kernel>
cudaError_t enqueue_kernel(const Plan& plan, const Launch& launch, cudaStream_t stream) {
  const auto shared = static_cast<int>(Kernel::kSharedBytes);
  if (const cudaError_t e = cudaFuncSetAttribute(entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); e != cudaSuccess)
    return e;
  const auto blocks = static_cast<unsigned>(smaller(launch.items, plan.max_blocks));
  entry<Kernel><<<blocks, kThreads, Kernel::kSharedBytes, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace

template <class E>
int enqueue(const Plan& plan, const Launch& launch, void* stream) {
  cudaError_t error = cudaSuccess;
  with_kernel_of<E>(plan, [&]<class Kernel>() { error = enqueue_kernel<Kernel>(plan, launch, static_cast<cudaStream_t>(stream)); });
  return static_cast<int>(error);
}

}  // namespace window_matmul::cuda
