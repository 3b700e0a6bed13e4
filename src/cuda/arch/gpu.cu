// src/cuda/arch/gpu.cu: launching a plan's kernel on a GPU.
#include "cuda/arch/gpu.hpp"
#include "cuda/kernels/table.cuh"

namespace window_matmul::cuda {
namespace {

template <class Kernel>
__global__ void __launch_bounds__(kThreads, 1) entry(const __grid_constant__ Launch launch) {
  Kernel::run(launch);
}

template <class Kernel>
cudaError_t enqueue(const Launch& launch, const Plan& plan, cudaStream_t stream) {
  const auto shared = static_cast<int>(Kernel::kSharedBytes);
  if (const cudaError_t e = cudaFuncSetAttribute(entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); e != cudaSuccess)
    return e;
  const auto blocks = static_cast<unsigned>(smaller(launch.items, plan.max_blocks));
  entry<Kernel><<<blocks, kThreads, Kernel::kSharedBytes, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace

int run_on_gpu(const Problem& problem, const Plan& plan, const Args& args, void* stream) {
  cudaError_t error = cudaSuccess;
  for (const Launch& launch : launches_of(problem, args))
    with_kernel(plan, [&]<class Kernel>() {
      if (error == cudaSuccess) error = enqueue<Kernel>(launch, plan, static_cast<cudaStream_t>(stream));
    });
  return static_cast<int>(error);
}

}  // namespace window_matmul::cuda
