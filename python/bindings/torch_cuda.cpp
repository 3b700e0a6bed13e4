// python/bindings/torch_cuda.cpp: the operators' CUDA kernels for PyTorch, and what Python may ask about GPUs. Stable ABI only.
#include <torch/csrc/stable/accelerator.h>

#include "cuda/runtime/gpus.hpp"
#include "describe.hpp"
#include "operators.hpp"

namespace window_matmul::binding {
namespace {

// torch exports the current stream from libtorch_cuda.so, which a torch for CPUs has not: looked up in the copy that is loaded.
void* current_stream(std::int32_t index) {
  using Get = AOTITorchError (*)(std::int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  if (get == nullptr) throw std::runtime_error("this torch has no CUDA: libtorch_cuda.so, or its current stream, is not there");
  void* stream = nullptr;
  if (get(index, &stream) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("no current stream of cuda:" + std::to_string(index) + ": " + torch_error());
  }
  return stream;
}

// torch's current device for the time of a call: that of the tensors.
class Cuda {
 public:
  explicit Cuda(const Tensor& tensor) : guard_(tensor.get_device_index()), stream_(current_stream(tensor.get_device_index())) {
    check(cuda::use_gpu(tensor.get_device_index(), &device_));
  }
  RunOptions options(double) const {
    RunOptions options;
    options.device = device_, options.stream = stream_;
    return options;
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_;
  const DeviceInfo* device_ = nullptr;
};

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
