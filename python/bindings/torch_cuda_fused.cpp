// python/bindings/torch_cuda_fused.cpp: fused attention's CUDA kernels for PyTorch. Stable ABI only.
#include "attention_operators.hpp"
#include "cuda_device.hpp"

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CUDA, library) {
  using namespace window_matmul::binding;
  implement_attention<Cuda>(library);
}
