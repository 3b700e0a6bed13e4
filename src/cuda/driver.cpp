// src/cuda/driver.cpp: what to tell people of drivers, in the words of the versions that CUDA counts.
#include "cuda/driver.hpp"

namespace window_matmul::cuda {

std::string version_text(int version) { return "CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

std::string driver_text(int version) { return version == 0 ? "none" : "for " + version_text(version); }

std::string why_driver_is_refused(int driver, int runtime) {
  const std::string needed = version_text(runtime / 1000 * 1000) + " or newer";
  if (driver == 0) return "there is no NVIDIA driver; the CUDA kernels need one for " + needed;
  return "the NVIDIA driver is too old: for " + version_text(driver) + "; the CUDA kernels need one for " + needed;
}

}  // namespace window_matmul::cuda
