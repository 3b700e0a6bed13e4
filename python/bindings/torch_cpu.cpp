// python/bindings/torch_cpu.cpp: the operators' schemas and CPU kernels for PyTorch. Stable ABI only.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tensors.hpp"
#include "threads.hpp"
#include "window_matmul/ops.hpp"

namespace window_matmul::binding {
namespace {

using Dilation = std::vector<std::int64_t>;

// `depth` is what an element of x (..., rows, cols) costs, in multiply-adds. Waking a thread takes 4 us, some 50 000 of them.
RunOptions options_for(const TensorView& x, index_t depth) {
  double work = static_cast<double>(depth);
  for (int dim = 0; dim < x.rank; ++dim) work *= static_cast<double>(x.shape[dim]);
  RunOptions options;
  if (work > 100'000) options.executor.parallel_for = torch_threads;
  return options;
}

// ---- what has to be known before a result can be allocated; the core checks the rest ----------------------------------------------

index_t width_of(std::int64_t left, std::int64_t right) {
  require(left >= 0, "left", std::to_string(left), "at least 0");
  require(right >= 0, "right", std::to_string(right), "at least 0");
  index_t width = 0;
  const bool fits = !__builtin_add_overflow(left, right, &width) && !__builtin_add_overflow(width, 1, &width);
  require(fits, "the window (left, right)", "(" + std::to_string(left) + ", " + std::to_string(right) + ")",
          "so small that the band's columns, left + 1 + right, fit into 64 bits");
  return width;
}

void require_equal_leading_dims(const char* x_name, const TensorView& x, const char* y_name, const TensorView& y) {
  const bool equal = x.rank == y.rank && std::equal(x.shape, x.shape + x.rank - 2, y.shape);
  if (!equal) require(false, y_name, text_of_shape(y), ("of the leading dims of " + std::string(x_name) + ", " + text_of_shape(x)).c_str());
}

// ---- the operators ----------------------------------------------------------------------------------------------------------------

Tensor band_out(const Tensor& q, const Tensor& k, std::int64_t left, std::int64_t right, const Dilation& dilation, std::int64_t shift,
                double fill) {
  const TensorView q_view = view_of(q, "q"), k_view = view_of(k, "k");
  require_equal_leading_dims("q", q_view, "k", k_view);
  TensorView a_view;
  Tensor a = empty(q, q_view, q_view.size(2), width_of(left, right), &a_view);
  check(window_matmul::band_out({left, right, dilation, shift}, q_view, k_view, a_view, fill, options_for(a_view, q_view.size(1))));
  return a;
}

Tensor band_in(const Tensor& a, const Tensor& v, std::int64_t left, std::int64_t right, const Dilation& dilation, std::int64_t shift) {
  const TensorView a_view = view_of(a, "a"), v_view = view_of(v, "v");
  require_equal_leading_dims("a", a_view, "v", v_view);
  width_of(left, right);
  TensorView o_view;
  Tensor o = empty(a, a_view, a_view.size(2), v_view.size(1), &o_view);
  check(window_matmul::band_in({left, right, dilation, shift}, a_view, v_view, o_view, options_for(a_view, v_view.size(1))));
  return o;
}

Tensor band_in_transposed(const Tensor& a, const Tensor& x, std::int64_t left, std::int64_t right, const Dilation& dilation,
                          std::int64_t shift, std::int64_t num_keys) {
  const TensorView a_view = view_of(a, "a"), x_view = view_of(x, "x");
  require_equal_leading_dims("a", a_view, "x", x_view);
  width_of(left, right);
  require(num_keys >= 0, "num_keys", std::to_string(num_keys), "at least 0");
  TensorView o_view;
  Tensor o = empty(a, a_view, num_keys, x_view.size(1), &o_view);
  check(window_matmul::band_in_transposed({left, right, dilation, shift}, a_view, x_view, o_view, options_for(a_view, x_view.size(1))));
  return o;
}

constexpr index_t kExponential = 16;  // what an element of a softmax costs, in multiply-adds

Tensor window_softmax(const Tensor& a, std::int64_t left, std::int64_t right, const Dilation& dilation, std::int64_t shift,
                      std::int64_t num_keys) {
  const TensorView a_view = view_of(a, "a");
  width_of(left, right);
  TensorView p_view;
  Tensor p = empty(a, a_view, a_view.size(2), a_view.size(1), &p_view);
  check(window_matmul::window_softmax({left, right, dilation, shift}, num_keys, a_view, p_view, options_for(a_view, kExponential)));
  return p;
}

Tensor window_softmax_backward(const Tensor& g, const Tensor& p, std::int64_t left, std::int64_t right, const Dilation& dilation,
                               std::int64_t shift, std::int64_t num_keys) {
  const TensorView g_view = view_of(g, "g"), p_view = view_of(p, "p");
  require_equal_leading_dims("g", g_view, "p", p_view);
  width_of(left, right);
  TensorView d_view;
  Tensor d = empty(g, g_view, g_view.size(2), g_view.size(1), &d_view);
  check(window_matmul::window_softmax_backward({left, right, dilation, shift}, num_keys, g_view, p_view, d_view, options_for(g_view, 2)));
  return d;
}

// ---- the same without an Autograd kernel, for calls from Python with nothing else to do: PyTorch needs as long for five numbers of
// their own as for the rest of a small call, but a list of them costs as much as one. ------------------------------------------------

using Numbers = std::vector<std::int64_t>;  // left, right, shift, number of keys, then the dilation's

Dilation dilation_of(const Numbers& band) {
  require(band.size() >= 4, "band", "a list of " + std::to_string(band.size()), "(left, right, shift, num_keys, *dilation)");
  return {band.begin() + 4, band.end()};
}

Tensor direct_band_out(const Tensor& q, const Tensor& k, const Numbers& band, double fill) {
  const Dilation dilation = dilation_of(band);
  return band_out(q, k, band[0], band[1], dilation, band[2], fill);
}
Tensor direct_band_in(const Tensor& a, const Tensor& v, const Numbers& band) {
  const Dilation dilation = dilation_of(band);
  return band_in(a, v, band[0], band[1], dilation, band[2]);
}
Tensor direct_band_in_transposed(const Tensor& a, const Tensor& x, const Numbers& band) {
  const Dilation dilation = dilation_of(band);
  return band_in_transposed(a, x, band[0], band[1], dilation, band[2], band[3]);
}
Tensor direct_window_softmax(const Tensor& a, const Numbers& band) {
  const Dilation dilation = dilation_of(band);
  return window_softmax(a, band[0], band[1], dilation, band[2], band[3]);
}
Tensor direct_window_softmax_backward(const Tensor& g, const Tensor& p, const Numbers& band) {
  const Dilation dilation = dilation_of(band);
  return window_softmax_backward(g, p, band[0], band[1], dilation, band[2], band[3]);
}

}  // namespace
}  // namespace window_matmul::binding

STABLE_TORCH_LIBRARY(window_matmul, library) {
  library.def("band_out(Tensor q, Tensor k, int left, int right, int[] dilation, SymInt shift, float fill) -> Tensor");
  library.def("band_in(Tensor a, Tensor v, int left, int right, int[] dilation, SymInt shift) -> Tensor");
  library.def("band_in_transposed(Tensor a, Tensor x, int left, int right, int[] dilation, SymInt shift, SymInt num_keys) -> Tensor");
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
  library.impl("band_out", TORCH_BOX(&band_out));
  library.impl("band_in", TORCH_BOX(&band_in));
  library.impl("band_in_transposed", TORCH_BOX(&band_in_transposed));
  library.impl("window_softmax", TORCH_BOX(&window_softmax));
  library.impl("window_softmax_backward", TORCH_BOX(&window_softmax_backward));
  library.impl("_band_out", TORCH_BOX(&direct_band_out));
  library.impl("_band_in", TORCH_BOX(&direct_band_in));
  library.impl("_band_in_transposed", TORCH_BOX(&direct_band_in_transposed));
  library.impl("_window_softmax", TORCH_BOX(&direct_window_softmax));
  library.impl("_window_softmax_backward", TORCH_BOX(&direct_window_softmax_backward));
}
