// python/bindings/cuda_device.hpp: where and how the operators run on CUDA tensors.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <vector>

#include "cuda/runtime/gpus.hpp"
#include "tensors.hpp"
#include "window_matmul/ops.hpp"

namespace window_matmul::binding {

// torch exports the current stream from libtorch_cuda.so, which a torch for CPUs has not: looked up in the copy that is loaded.
inline void* current_stream(std::int32_t index) {
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
  static constexpr bool kReadsNumbers = false;  // that would wait for the GPU

  explicit Cuda(const Tensor& tensor)
      : guard_(tensor.get_device_index()), stream_(current_stream(tensor.get_device_index())), taken_{tensor} {
    check(cuda::use_gpu(tensor.get_device_index(), &device_));
  }
  RunOptions options(double) const {
    RunOptions options;
    options.device = device_, options.stream = stream_;
    options.memory = {take, &taken_};
    return options;
  }

 private:
  // From torch's allocator, whose memory is ordered by the stream: it may go back as soon as everything is enqueued.
  static void* take(void* taken, std::size_t bytes) {
    const index_t doubles = static_cast<index_t>(bytes / sizeof(double) + 1);
    TensorView view{nullptr, DType::f64, 1, {doubles}};
    auto& tensors = *static_cast<std::vector<Tensor>*>(taken);
    tensors.push_back(allocate(tensors.front(), &view));
    return view.data;
  }

  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_;
  const DeviceInfo* device_ = nullptr;
  mutable std::vector<Tensor> taken_;  // the first says where
};

}  // namespace window_matmul::binding
