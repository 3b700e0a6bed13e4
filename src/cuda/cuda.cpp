// src/cuda/cuda.cpp: the CUDA row of the kernel table: a problem, a device and a runner -> a plan that is enqueued.
#include "cuda/cuda.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>

namespace window_matmul::cuda {
namespace {

constexpr std::string_view kWhyNotBuilt = WINDOW_MATMUL_WHY_NO_CUDA;  // of cmake/torch_cuda.cmake; "" where the kernels are built

std::atomic<const Runner*> the_runner{nullptr};

bool refuse(std::string* why_not, std::string reason) {
  *why_not = std::move(reason);
  return false;
}

Device device_of(const DeviceInfo& info) { return {info.major, info.minor, info.multiprocessors, info.shared_bytes}; }

std::string spaced(std::string list) {  // "sm_80,sm_90" -> "sm_80, sm_90"
  for (std::size_t at = 0; (at = list.find(',', at)) != std::string::npos; ++at) list.insert(at + 1, 1, ' ');
  return list;
}

// One of the list; 100 is compute capability 10.0.
bool one_runs_on(std::string_view code, int major, int minor) {
  const auto number = static_cast<int>(std::strtol(std::string(code.substr(code.find('_') + 1)).c_str(), nullptr, 10));
  if (code.starts_with("compute_")) return number <= 10 * major + minor;
  return number / 10 == major && (code.ends_with('a') ? number % 10 == minor : number % 10 <= minor);
}

bool supports_here(const Problem& problem, const DeviceInfo& info, std::string* why_not) {
  const Runner* runner = the_runner;
  if (runner == nullptr && !kWhyNotBuilt.empty()) return refuse(why_not, "not built (" + std::string(kWhyNotBuilt) + ")");
  if (!is_on(DeviceInfo::Kind::cuda, info, why_not)) return false;
  if (runner == nullptr) return refuse(why_not, "the library with its kernels is not loaded");
  if (!supports(problem, device_of(info), why_not)) return false;
  if (runs_on(runner->compiled_for, info.major, info.minor)) return true;
  const std::string capability = std::to_string(info.major) + "." + std::to_string(info.minor);
  return refuse(why_not, "compiled for " + spaced(runner->compiled_for) + ": not for this GPU's compute capability " + capability);
}

Config no_config(const Problem&, const DeviceInfo&) { return {}; }

Status run(const Problem& problem, const Config&, const Args& args) {
  return the_runner.load()->run(problem, configure(problem, device_of(*args.device)), args);
}

}  // namespace

void set_runner(const Runner* runner) { the_runner = runner; }

bool runs_on(std::string_view compiled_for, int major, int minor) {
  for (std::size_t begin = 0; begin < compiled_for.size();) {
    const std::size_t end = std::min(compiled_for.find(',', begin), compiled_for.size());
    if (one_runs_on(compiled_for.substr(begin, end - begin), major, minor)) return true;
    begin = end + 1;
  }
  return false;
}

Kernel row() { return {"cuda.sm80", 40, supports_here, no_config, run, nullptr}; }

}  // namespace window_matmul::cuda
