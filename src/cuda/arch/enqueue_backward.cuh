// src/cuda/arch/enqueue_backward.cuh: the gradients of fused attention of one element type and padded head dim as entry functions, and
// their launch.
#pragma once

#include "cuda/arch/enqueue.hpp"
#include "cuda/arch/entry.cuh"
#include "cuda/kernels/attention/backward_table.cuh"

namespace window_matmul::cuda {

template <class E, int Dim>
int enqueue_backward(const Plan& plan, const AttentionLaunch& launch, void* stream) {
  cudaError_t error = cudaSuccess;
  with_backward_kernel_of<E, Dim>(plan, launch.kernel,
                                  [&]<class Kernel>() { error = enqueue_kernel<Kernel>(plan, launch, static_cast<cudaStream_t>(stream)); });
  return static_cast<int>(error);
}

}  // namespace window_matmul::cuda
