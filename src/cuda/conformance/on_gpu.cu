// src/cuda/conformance/on_gpu.cu: the little kernels on a GPU.
#include <memory>

#include "cuda/conformance/arithmetic.cuh"

namespace window_matmul::cuda::conformance {
namespace {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kGrid.threads) entry(std::uintptr_t in, std::uintptr_t out) {
  Kernel::run(in, out);
}

struct Free {
  void operator()(void* p) const { cudaFree(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(std::size_t bytes, cudaError_t* error) {
  void* p = nullptr;
  if (*error == cudaSuccess) *error = cudaMalloc(&p, bytes);
  return Memory(p);
}

template <class Kernel>
cudaError_t launch(const std::byte* in, std::byte* out) {
  constexpr Grid grid = Kernel::kGrid;
  cudaError_t error = cudaSuccess;
  const auto then = [&](auto&& call) {
    if (error == cudaSuccess) error = call();
  };
  const Memory from = allocate(grid.in_bytes, &error), to = allocate(grid.out_bytes, &error);
  then([&] { return cudaMemcpy(from.get(), in, grid.in_bytes, cudaMemcpyHostToDevice); });
  then([&] { return cudaMemset(to.get(), 0xa5, grid.out_bytes); });  // what a kernel leaves out is seen
  then([&] {
    entry<Kernel><<<grid.blocks, grid.threads, grid.shared_bytes>>>(reinterpret_cast<std::uintptr_t>(from.get()),
                                                                    reinterpret_cast<std::uintptr_t>(to.get()));
    return cudaGetLastError();
  });
  then([] { return cudaDeviceSynchronize(); });
  then([&] { return cudaMemcpy(out, to.get(), grid.out_bytes, cudaMemcpyDeviceToHost); });
  return error;
}

template <class Kernel>
std::string run(const std::byte* in, std::byte* out, std::uint64_t) {
  const cudaError_t error = launch<Kernel>(in, out);
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

// Which code a GPU runs, its own architecture's or an older one's, decides what that code could be compiled from.
template <class Kernel>
bool is_available() {
  cudaFuncAttributes attributes{};
  return !needs_sm90<Kernel>() || (cudaFuncGetAttributes(&attributes, entry<Kernel>) == cudaSuccess && attributes.binaryVersion >= 90 &&
                                   attributes.ptxVersion >= 90);
}

}  // namespace

std::vector<Runner> gpu_runners(int device, std::string* name, std::string* why_not) {
  cudaDeviceProp properties{};
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, device);
  if (error == cudaSuccess) error = cudaFree(nullptr);  // makes the context: here it shows whether the driver is new enough
  if (error != cudaSuccess) {
    *why_not = cudaGetErrorString(error);
    return {};
  }
  *name = std::string(properties.name) + ", sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
  std::vector<Runner> runners;
  for_each_kernel([&]<class Kernel>() { runners.push_back({Kernel::kName, Kernel::kGrid, run<Kernel>, is_available<Kernel>()}); });
  return runners;
}

}  // namespace window_matmul::cuda::conformance
