// python/bindings/torch_cpu.cpp: the operators' schemas and CPU kernels for PyTorch. Stable ABI only.
#include "cpu_device.hpp"
#include "operators.hpp"

STABLE_TORCH_LIBRARY(window_matmul, library) {
  library.def("band_out(Tensor q, Tensor k, int left, int right, int[] dilation, SymInt shift, float fill, int precision=0) -> Tensor");
  library.def("band_in(Tensor a, Tensor v, int left, int right, int[] dilation, SymInt shift, int precision=0) -> Tensor");
  library.def(
      "band_in_transposed(Tensor a, Tensor x, int left, int right, int[] dilation, SymInt shift, SymInt num_keys, int precision=0) -> "
      "Tensor");
  library.def("window_softmax(Tensor a, int left, int right, int[] dilation, SymInt shift, SymInt num_keys) -> Tensor");
  library.def("window_softmax_backward(Tensor g, Tensor p, int left, int right, int[] dilation, SymInt shift, SymInt num_keys) -> Tensor");
  library.def("_band_out(Tensor q, Tensor k, int[] band, float fill=0.0) -> Tensor");
  library.def("_band_in(Tensor a, Tensor v, int[] band) -> Tensor");
  library.def("_band_in_transposed(Tensor a, Tensor x, int[] band) -> Tensor");
  library.def("_window_softmax(Tensor a, int[] band) -> Tensor");
  library.def("_window_softmax_backward(Tensor g, Tensor p, int[] band) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CPU, library) {
  using namespace window_matmul::binding;
  Operators<Cpu>::implement(library);
}
