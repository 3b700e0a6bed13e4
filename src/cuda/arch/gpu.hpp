// src/cuda/arch/gpu.hpp: the CUDA kernels on a GPU: what a binding, and later the kernel table, calls.
#pragma once

#include "cuda/plan.hpp"

namespace window_matmul::cuda {

// Enqueues the plan's grids on a stream (a cudaStream_t) of the current device. Returns a cudaError_t, 0 for success; does not wait.
int run_on_gpu(const Problem& problem, const Plan& plan, const Args& args, void* stream);

}  // namespace window_matmul::cuda
