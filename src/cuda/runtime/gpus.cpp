// src/cuda/runtime/gpus.cpp: questions to the CUDA runtime, and its errors as text. Nothing here waits for a GPU.
#include "cuda/runtime/gpus.hpp"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "cuda/arch/gpu.hpp"
#include "cuda/driver.hpp"

namespace window_matmul::cuda {
namespace {

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

std::string text_of(cudaError_t error) {
  if (error == cudaErrorInsufficientDriver) return why_driver_is_refused(driver_version(), CUDART_VERSION);
  if (error == cudaErrorNoDevice) return kNoGpu;
  return std::string("CUDA: ") + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
}

Status status_of(cudaError_t error) {
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // or the next launch would report it once more
  return {error == cudaErrorMemoryAllocation ? StatusCode::out_of_memory : StatusCode::device_failed, text_of(error)};
}

cudaError_t ask(int index, DeviceInfo* info) {
  int shared = 0;
  cudaError_t error = cudaSuccess;
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, index);
  };
  get(&info->major, cudaDevAttrComputeCapabilityMajor), get(&info->minor, cudaDevAttrComputeCapabilityMinor);
  get(&info->multiprocessors, cudaDevAttrMultiProcessorCount), get(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  info->kind = DeviceInfo::Kind::cuda, info->shared_bytes = static_cast<std::size_t>(shared);
  return error;
}

Status run(const Problem& problem, const Plan& plan, const Args& args) {
  if (is_attention(problem.op) && args.memory.take == nullptr)
    return {StatusCode::invalid_argument,
            std::string(name_of(problem.op)) + ": RunOptions.memory is missing; fused attention on a GPU needs it"};
  return status_of(static_cast<cudaError_t>(run_on_gpu(problem, plan, args, args.stream)));
}

std::string gpu_text(int index) {
  DeviceInfo info;
  cudaDeviceProp properties;
  cudaError_t error = ask(index, &info);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) return status_of(error).message();
  return std::string(properties.name) + ", compute capability " + std::to_string(info.major) + "." + std::to_string(info.minor) + ", " +
         std::to_string(info.multiprocessors) + " multiprocessors, " + std::to_string(info.shared_bytes >> 10) +
         " KiB of shared memory a block";
}

}  // namespace

constinit const Runner gpu_runner{run, WINDOW_MATMUL_CUDA_COMPILED_FOR};

Status find_gpu(int index, const DeviceInfo** device) {
  static std::mutex mutex;
  static std::map<int, DeviceInfo> known;  // its entries stay where they are
  const std::lock_guard lock(mutex);
  auto found = known.find(index);
  if (found == known.end()) {
    DeviceInfo info;
    if (Status status = status_of(ask(index, &info)); !status.ok()) return status;
    found = known.emplace(index, info).first;
  }
  *device = &found->second;
  return {};
}

Status use_gpu(int index, const DeviceInfo** device) {
  const Status status = status_of(cudaSetDevice(index));
  return status.ok() ? find_gpu(index, device) : status;
}

std::vector<GpuFacts> gpu_facts() {
  std::vector<GpuFacts> facts = {
      {"runtime", version_text(CUDART_VERSION)}, {"driver", driver_text(driver_version())}, {"compiled for", gpu_runner.compiled_for}};
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess)
    facts.push_back({"GPUs", "none: " + status_of(error).message()});
  for (int index = 0; index < count; ++index) facts.push_back({"GPU " + std::to_string(index), gpu_text(index)});
  return facts;
}

}  // namespace window_matmul::cuda
