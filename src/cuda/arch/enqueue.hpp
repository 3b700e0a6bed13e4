// src/cuda/arch/enqueue.hpp: one grid on a stream; a file of kernels for each element type, so that they compile beside each other.
#pragma once

#include "cuda/kernels/attention/launch.hpp"
#include "cuda/kernels/choice.hpp"

namespace window_matmul::cuda {

// Returns a cudaError_t. `stream` is a cudaStream_t. Defined in gpu_<type>.cu for the type of each.
template <class E>
int enqueue(const Plan& plan, const Launch& launch, void* stream);
// Likewise; in gpu_attention_<type>_<padded head dim>.cu.
template <class E, int Dim>
int enqueue_attention(const Plan& plan, const AttentionLaunch& launch, void* stream);
// Likewise; in gpu_backward_<type>_<padded head dim>.cu.
template <class E, int Dim>
int enqueue_backward(const Plan& plan, const AttentionLaunch& launch, void* stream);

}  // namespace window_matmul::cuda
