// python/bindings/torch_cuda.cpp: the operators' CUDA kernels for PyTorch, and what Python may ask about GPUs. Stable ABI only.
#include "cuda_device.hpp"
#include "describe.hpp"
#include "operators.hpp"

namespace window_matmul::binding {
namespace {

// A line a fact: its name, a tab, its value.
std::string cuda_facts() {
  std::string lines;
  for (const cuda::GpuFacts& fact : cuda::gpu_facts()) lines += fact.name + '\t' + fact.value + '\n';
  return lines;
}

std::string cuda_kernels(const std::string& op, const std::string& dtype, std::int64_t index) {
  const DeviceInfo* device = nullptr;
  check(cuda::find_gpu(static_cast<int>(index), &device));
  return verdict_lines(op, dtype, *device);
}

}  // namespace
}  // namespace window_matmul::binding

STABLE_TORCH_LIBRARY_FRAGMENT(window_matmul, library) {
  library.def("_cuda_facts() -> str");
  library.def("_cuda_kernels(str op, str dtype, int device) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CompositeExplicitAutograd, library) {
  using namespace window_matmul::binding;
  library.impl("_cuda_facts", TORCH_BOX(&cuda_facts));
  library.impl("_cuda_kernels", TORCH_BOX(&cuda_kernels));
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CUDA, library) {
  using namespace window_matmul;
  cuda::set_runner(&cuda::gpu_runner);
  binding::Operators<binding::Cuda>::implement(library);
}
