// src/ops.cpp: the operators on band storage: validate -> launch.
#include "window_matmul/ops.hpp"

#include <algorithm>

#include "launch.hpp"
#include "validate.hpp"

namespace window_matmul {
namespace {

bool is_empty(const TensorView& t) { return std::find(t.shape, t.shape + t.rank, 0) != t.shape + t.rank; }

Status run(const Call& call, const RunOptions& options) {
  if (options.stats != nullptr) *options.stats = {};
  Problem problem;
  Args args;
  if (Status status = validate(call, &problem, &args); !status.ok()) return status;
  if (problem.dtype == DType::f32) problem.precision = options.precision;
  return launch(problem, args, options, is_empty(args.out));
}

}  // namespace

Status band_out(const Window& window, const TensorView& q, const TensorView& k, const TensorView& a, double fill,
                const RunOptions& options) {
  return run({Op::band_out, window, q, &k, a, 0, fill}, options);
}

Status band_in(const Window& window, const TensorView& a, const TensorView& v, const TensorView& o, const RunOptions& options) {
  return run({Op::band_in, window, a, &v, o, 0, 0}, options);
}

Status band_in_transposed(const Window& window, const TensorView& a, const TensorView& x, const TensorView& o, const RunOptions& options) {
  return run({Op::band_in_transposed, window, a, &x, o, 0, 0}, options);
}

Status window_softmax(const Window& window, index_t num_keys, const TensorView& a, const TensorView& p, const RunOptions& options) {
  return run({Op::softmax, window, a, nullptr, p, num_keys, 0}, options);
}

Status window_softmax_backward(const Window& window, index_t num_keys, const TensorView& g, const TensorView& p, const TensorView& d,
                               const RunOptions& options) {
  return run({Op::softmax_backward, window, g, &p, d, num_keys, 0}, options);
}

}  // namespace window_matmul
