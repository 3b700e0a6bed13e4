// src/cuda/arch/enqueue.cuh: the kernels of one element type but those of fused attention as entry functions, and their launch.
#pragma once

#include "cuda/arch/enqueue.hpp"
#include "cuda/arch/entry.cuh"
#include "cuda/kernels/table.cuh"

namespace window_matmul::cuda {
template <class E>
int enqueue(const Plan& plan, const Launch& launch, void* stream) {
  cudaError_t error = cudaSuccess;
  with_kernel_of<E>(plan, [&]<class Kernel>() { error = enqueue_kernel<Kernel>(plan, launch, static_cast<cudaStream_t>(stream)); });
  return static_cast<int>(error);
}

}  // namespace window_matmul::cuda
