// src/cuda/runtime/gpus.hpp: the GPUs of this machine as the core sees them. Only in the library that holds the CUDA kernels.
#pragma once

#include "cuda/cuda.hpp"

namespace window_matmul::cuda {

extern const Runner gpu_runner;

// A GPU of this machine, which is asked once; *device stays.
Status find_gpu(int index, const DeviceInfo** device);
// Also makes it the current one of this library's own CUDA runtime, as torch has made it that of torch's.
Status use_gpu(int index, const DeviceInfo** device);

struct GpuFacts {
  std::string name, value;
};
std::vector<GpuFacts> gpu_facts();  // for people: runtime, driver, what the kernels were compiled for, and every GPU

}  // namespace window_matmul::cuda
