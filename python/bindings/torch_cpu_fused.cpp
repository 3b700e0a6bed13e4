// python/bindings/torch_cpu_fused.cpp: fused attention's schemas and CPU kernels for PyTorch. Stable ABI only.
#include "attention_operators.hpp"
#include "cpu_device.hpp"

namespace window_matmul::binding {
namespace {

const std::string kGiven =
    "Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? sinks, Tensor? key_mask, Tensor? global_mask, Tensor? cu_q, Tensor? cu_k, "
    "Tensor? seed, Tensor? key_lengths, Tensor? offsets, int[] band, SymInt shift, SymInt global_tokens, float[] reals";
const std::string kAttention = "attention(" + kGiven + ") -> (Tensor out, Tensor lse)";
const std::string kBackward = "attention_backward(Tensor d_out, Tensor? d_lse, Tensor out, Tensor lse, " + kGiven +
                              ", int wanted) -> (Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_bias, Tensor d_sinks)";

}  // namespace
}  // namespace window_matmul::binding

// With an underscore: the same without an Autograd kernel, for calls from Python with nothing else to do.
STABLE_TORCH_LIBRARY_FRAGMENT(window_matmul, library) {
  using namespace window_matmul::binding;
  library.def(kAttention.c_str());
  library.def(kBackward.c_str());
  library.def(("_" + kAttention).c_str());
  library.def(("_" + kBackward).c_str());
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CPU, library) {
  using namespace window_matmul::binding;
  implement_attention<Cpu>(library);
}
