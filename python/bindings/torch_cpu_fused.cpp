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
// Of parts of a larger call: results are written where they are to lie there.
const std::string kInto = "_attention_into(Tensor(a!) to_out, Tensor(b!) to_lse, " + kGiven + ") -> ()";
const std::string kBackwardInto =
    "_attention_backward_into(Tensor(a!)? d_q, Tensor(b!)? d_k, Tensor(c!)? d_v, Tensor(d!)? d_bias, Tensor(e!)? d_sinks, "
    "Tensor d_out, Tensor? d_lse, Tensor out, Tensor lse, " +
    kGiven + ") -> ()";

void attention_into(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& bias,
                    const MaybeTensor& sinks, const MaybeTensor& key_mask, const MaybeTensor& global_mask, const MaybeTensor& cu_q,
                    const MaybeTensor& cu_k, const MaybeTensor& seed, const MaybeTensor& key_lengths, const MaybeTensor& offsets,
                    const Numbers& band, std::int64_t shift, std::int64_t global_tokens, const Reals& reals) {
  const Given given{q, k, v, bias, sinks, key_mask, global_mask, cu_q, cu_k, seed, key_lengths, offsets, band, shift, global_tokens, reals};
  const AttentionInputs inputs = inputs_of<Cpu>(given);
  check(window_attention(inputs, view_of_rank(out, "out", kRank), view_of_rank(lse, "lse", 3), options_for(Cpu(q), given, inputs)));
}

void attention_backward_into(const MaybeTensor& d_q, const MaybeTensor& d_k, const MaybeTensor& d_v, const MaybeTensor& d_bias,
                             const MaybeTensor& d_sinks, const Tensor& d_out, const MaybeTensor& d_lse, const Tensor& out,
                             const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& bias,
                             const MaybeTensor& sinks, const MaybeTensor& key_mask, const MaybeTensor& global_mask, const MaybeTensor& cu_q,
                             const MaybeTensor& cu_k, const MaybeTensor& seed, const MaybeTensor& key_lengths, const MaybeTensor& offsets,
                             const Numbers& band, std::int64_t shift, std::int64_t global_tokens, const Reals& reals) {
  const Given given{q, k, v, bias, sinks, key_mask, global_mask, cu_q, cu_k, seed, key_lengths, offsets, band, shift, global_tokens, reals};
  const AttentionInputs inputs = inputs_of<Cpu>(given);
  AttentionGradients to;
  for (const auto& [view, tensor, name] :
       {std::tuple{&to.d_q, &d_q, "d_q"}, {&to.d_k, &d_k, "d_k"}, {&to.d_v, &d_v, "d_v"}, {&to.d_bias, &d_bias, "d_bias"}})
    if (*tensor) *view = view_of(**tensor, name);
  if (d_sinks) to.d_sinks = view_of_sinks(*d_sinks);
  differentiate(inputs, d_out, d_lse, out, lse, to, options_for(Cpu(q), given, inputs));
}

// Not yet written, in memory that is kept for large results.
Tensor empty_of(const Tensor& like, const Numbers& shape, std::int64_t form) {
  TensorView view{nullptr, dtype_of(like, "like"), static_cast<int>(shape.size())};
  std::copy(shape.begin(), shape.end(), view.shape);
  return allocate(like, &view, (form & heads_inside) != 0 ? kHeadsInside : nullptr);
}

}  // namespace
}  // namespace window_matmul::binding

// With an underscore: the same without an Autograd kernel, for calls from Python with nothing else to do.
STABLE_TORCH_LIBRARY_FRAGMENT(window_matmul, library) {
  using namespace window_matmul::binding;
  library.def(kAttention.c_str());
  library.def(kBackward.c_str());
  library.def(("_" + kAttention).c_str());
  library.def(("_" + kBackward).c_str());
  library.def(kInto.c_str());
  library.def(kBackwardInto.c_str());
  library.def("_empty_of(Tensor like, int[] shape, int form) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CPU, library) {
  using namespace window_matmul::binding;
  implement_attention<Cpu>(library);
  library.impl("_attention_into", TORCH_BOX(&attention_into));
  library.impl("_attention_backward_into", TORCH_BOX(&attention_backward_into));
  library.impl("_empty_of", TORCH_BOX(&empty_of));
}
