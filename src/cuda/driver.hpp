// src/cuda/driver.hpp: what to tell people of drivers, in the words of the versions that CUDA counts.
#pragma once

#include <string>

namespace window_matmul::cuda {

// Versions as CUDA has them: 1000 * major + 10 * minor; a driver of version 0 is none.
std::string version_text(int version);                         // "CUDA 13.0"
std::string driver_text(int version);                          // "none", "for CUDA 13.0"
std::string why_driver_is_refused(int driver, int runtime);  // by a runtime of that version, which takes drivers of its major version on
inline constexpr char kNoGpu[] = "there is a driver, and no GPU that it shows this process (CUDA_VISIBLE_DEVICES hides them)";

}  // namespace window_matmul::cuda
