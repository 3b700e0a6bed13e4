// src/cuda/cuda.hpp: the CUDA row of the kernel table, and how the kernels' own library makes itself known to it.
#pragma once

#include <string_view>

#include "cuda/plan.hpp"
#include "window_matmul/backends.hpp"

namespace window_matmul::cuda {

// What runs the plans of the row. The core has none: the library that holds the kernels brings its own, and a test the emulation.
struct Runner {
  Status (*run)(const Problem&, const Plan&, const Args&);  // enqueues on args.stream, which belongs to the current device
  const char* compiled_for;                                 // as nvcc was told: "sm_80,sm_90a,compute_80"
};
void set_runner(const Runner* runner);  // must outlive its use; null: none

// Whether what was compiled for these runs on this compute capability. sm_80: on 8.0 and every later 8.x; sm_90a: on 9.0 alone. compute_80
// is PTX, which the driver compiles for 8.0 and everything later.
bool runs_on(std::string_view compiled_for, int major, int minor);

Kernel row();

}  // namespace window_matmul::cuda
