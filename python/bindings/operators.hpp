// python/bindings/operators.hpp: the bodies of the operators on band storage, once for every device.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tensors.hpp"
#include "window_matmul/ops.hpp"

namespace window_matmul::binding {

using Dilation = std::vector<std::int64_t>;
using Numbers = std::vector<std::int64_t>;  // left, right, shift, number of keys, precision, then the dilation's

// ---- what has to be known before a result can be allocated; the core checks the rest ----------------------------------------------

inline index_t width_of(std::int64_t left, std::int64_t right) {
  require(left >= 0, "left", std::to_string(left), "at least 0");
  require(right >= 0, "right", std::to_string(right), "at least 0");
  index_t width = 0;
  const bool fits = !__builtin_add_overflow(left, right, &width) && !__builtin_add_overflow(width, 1, &width);
  require(fits, "the window (left, right)", "(" + std::to_string(left) + ", " + std::to_string(right) + ")",
          "so small that the band's columns, left + 1 + right, fit into 64 bits");
  return width;
}

inline Precision precision_of(std::int64_t number) {
  require(number == 0 || number == 1, "precision", std::to_string(number), "0 (highest) or 1 (high)");
  return number == 0 ? Precision::highest : Precision::high;
}

struct Operand {
  const char* name;
  const Tensor& tensor;
  TensorView view = view_of(tensor, name);
};

// One device, and equal leading dims.
inline void require_fits(const Operand& x, const Operand& y) {
  if (x.tensor.device() != y.tensor.device()) {
    require(false, y.name, "on another device", ("on that of " + std::string(x.name)).c_str());
  }
  const bool equal = x.view.rank == y.view.rank && std::equal(x.view.shape, x.view.shape + x.view.rank - 2, y.view.shape);
  if (!equal) {
    require(false, y.name, text_of_shape(y.view), ("of the leading dims of " + std::string(x.name) + ", " + text_of_shape(x.view)).c_str());
  }
}

inline Dilation dilation_of(const Numbers& band) {
  require(band.size() >= 5, "band", "a list of " + std::to_string(band.size()), "(left, right, shift, num_keys, precision, *dilation)");
  return {band.begin() + 5, band.end()};
}

// ---- the operators: Device(a tensor of the call) lives as long as the call, and its options(work) say where and how to run ----------

constexpr index_t kExponential = 16;  // what an element of a softmax costs, in multiply-adds

template <class Device>
struct Operators {
  static Tensor band_out(const Tensor& q, const Tensor& k, std::int64_t left, std::int64_t right, const Dilation& dilation,
                         std::int64_t shift, double fill, std::int64_t precision) {
    const Operand x{"q", q}, y{"k", k};
    require_fits(x, y);
    const Device device(q);
    TensorView a_view;
    Tensor a = empty(q, x.view, x.view.size(2), width_of(left, right), &a_view);
    check(window_matmul::band_out({left, right, dilation, shift}, x.view, y.view, a_view, fill,
                                  options(device, a_view, x.view.size(1), precision)));
    return a;
  }

  static Tensor band_in(const Tensor& a, const Tensor& v, std::int64_t left, std::int64_t right, const Dilation& dilation,
                        std::int64_t shift, std::int64_t precision) {
    const Operand x{"a", a}, y{"v", v};
    require_fits(x, y);
    width_of(left, right);
    const Device device(a);
    TensorView o_view;
    Tensor o = empty(a, x.view, x.view.size(2), y.view.size(1), &o_view);
    check(
        window_matmul::band_in({left, right, dilation, shift}, x.view, y.view, o_view, options(device, x.view, y.view.size(1), precision)));
    return o;
  }

  static Tensor band_in_transposed(const Tensor& a, const Tensor& x, std::int64_t left, std::int64_t right, const Dilation& dilation,
                                   std::int64_t shift, std::int64_t num_keys, std::int64_t precision) {
    const Operand weights{"a", a}, rows{"x", x};
    require_fits(weights, rows);
    width_of(left, right);
    require(num_keys >= 0, "num_keys", std::to_string(num_keys), "at least 0");
    const Device device(a);
    TensorView o_view;
    Tensor o = empty(a, weights.view, num_keys, rows.view.size(1), &o_view);
    check(window_matmul::band_in_transposed({left, right, dilation, shift}, weights.view, rows.view, o_view,
                                            options(device, weights.view, rows.view.size(1), precision)));
    return o;
  }

  static Tensor window_softmax(const Tensor& a, std::int64_t left, std::int64_t right, const Dilation& dilation, std::int64_t shift,
                               std::int64_t num_keys) {
    const TensorView a_view = view_of(a, "a");
    width_of(left, right);
    const Device device(a);
    TensorView p_view;
    Tensor p = empty(a, a_view, a_view.size(2), a_view.size(1), &p_view);
    check(window_matmul::window_softmax({left, right, dilation, shift}, num_keys, a_view, p_view, options(device, a_view, kExponential)));
    return p;
  }

  static Tensor window_softmax_backward(const Tensor& g, const Tensor& p, std::int64_t left, std::int64_t right, const Dilation& dilation,
                                        std::int64_t shift, std::int64_t num_keys) {
    const Operand x{"g", g}, y{"p", p};
    require_fits(x, y);
    width_of(left, right);
    const Device device(g);
    TensorView d_view;
    Tensor d = empty(g, x.view, x.view.size(2), x.view.size(1), &d_view);
    check(window_matmul::window_softmax_backward({left, right, dilation, shift}, num_keys, x.view, y.view, d_view,
                                                 options(device, x.view, 2)));
    return d;
  }

  // The same without an Autograd kernel, for calls from Python with nothing else to do: PyTorch needs as long for five numbers of their
  // own as for the rest of a small call, but a list of them costs as much as one.
  static Tensor direct_band_out(const Tensor& q, const Tensor& k, const Numbers& band, double fill) {
    const Dilation dilation = dilation_of(band);
    return band_out(q, k, band[0], band[1], dilation, band[2], fill, band[4]);
  }
  static Tensor direct_band_in(const Tensor& a, const Tensor& v, const Numbers& band) {
    const Dilation dilation = dilation_of(band);
    return band_in(a, v, band[0], band[1], dilation, band[2], band[4]);
  }
  static Tensor direct_band_in_transposed(const Tensor& a, const Tensor& x, const Numbers& band) {
    const Dilation dilation = dilation_of(band);
    return band_in_transposed(a, x, band[0], band[1], dilation, band[2], band[3], band[4]);
  }
  static Tensor direct_window_softmax(const Tensor& a, const Numbers& band) {
    const Dilation dilation = dilation_of(band);
    return window_softmax(a, band[0], band[1], dilation, band[2], band[3]);
  }
  static Tensor direct_window_softmax_backward(const Tensor& g, const Tensor& p, const Numbers& band) {
    const Dilation dilation = dilation_of(band);
    return window_softmax_backward(g, p, band[0], band[1], dilation, band[2], band[3]);
  }

  template <class Library>
  static void implement(Library& library) {
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

 private:
  // `depth` is what an element of x (..., rows, cols) costs, in multiply-adds.
  static RunOptions options(const Device& device, const TensorView& x, index_t depth, std::int64_t precision = 0) {
    double work = static_cast<double>(depth);
    for (int dim = 0; dim < x.rank; ++dim) work *= static_cast<double>(x.shape[dim]);
    RunOptions options = device.options(work);
    options.precision = precision_of(precision);
    return options;
  }
};

}  // namespace window_matmul::binding
