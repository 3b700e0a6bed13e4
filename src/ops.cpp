// src/ops.cpp: every operator: validate -> select -> configure -> run.
#include "window_matmul/ops.hpp"

#include <algorithm>
#include <cstdlib>

#include "validate.hpp"
#include "window_matmul/backends.hpp"

namespace window_matmul {
namespace {

bool is_empty(const TensorView& t) { return std::find(t.shape, t.shape + t.rank, 0) != t.shape + t.rank; }

Status run(const Call& call, const RunOptions& options) {
  if (options.stats != nullptr) *options.stats = {};
  Problem problem;
  Args args;
  if (Status status = validate(call, &problem, &args); !status.ok()) return status;
  args.executor = options.executor;
  args.stats = options.stats;

  const DeviceInfo& device = this_device();
  const Kernel* kernel = nullptr;
  const char* forced = options.backend != nullptr ? options.backend : std::getenv("WINDOW_MATMUL_BACKEND");
  if (Status status = select(problem, device, forced, &kernel); !status.ok()) return status;
  if (is_empty(args.out)) return {};
  return kernel->run(problem, kernel->configure(problem, device), args);
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
