// python/bindings/torch_cpu.cpp: the operators' schemas and CPU kernels for PyTorch, and questions about them. Stable ABI only.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "tensors.hpp"
#include "window_matmul/window_matmul.hpp"

namespace window_matmul::binding {
namespace {

using Dilation = std::vector<std::int64_t>;

// ---- threads: torch's own pool, so that torch.set_num_threads is obeyed -----------------------------------------------------------

struct Job {
  index_t parts, count;
  Executor::Body body;
  void* body_context;

  // One part a thread, their sizes differ by one at most.
  index_t begin_of(index_t part) const { return count / parts * part + smaller(part, count % parts); }
};

void torch_threads(void*, index_t count, Executor::Body body, void* body_context) {
  std::uint32_t threads = 1;
  TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&threads));
  Job job{smaller(threads, count), count, body, body_context};
  if (job.parts <= 1) return body(body_context, 0, count);
  const auto run_parts = [](std::int64_t begin, std::int64_t end, void* context) {
    const Job& j = *static_cast<const Job*>(context);
    for (index_t part = begin; part < end; ++part) j.body(j.body_context, j.begin_of(part), j.begin_of(part + 1));
  };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, job.parts, 1, run_parts, &job));
}

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

// ---- questions: no tensors, answers as text ---------------------------------------------------------------------------------------

template <class Enum>
Enum find(const char* name, const std::string& got, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) {
    const Enum value{static_cast<std::uint8_t>(i)};
    if (got == name_of(value)) return value;
    all += (i ? ", " : "") + std::string(name_of(value));
  }
  throw std::invalid_argument(std::string(name) + " is '" + got + "'; it needs to be one of: " + all);
}

Problem any_problem(const std::string& op, const std::string& dtype) {
  Problem problem;
  problem.op = find<Op>("op", op, 5), problem.dtype = find<DType>("dtype", dtype, 4);
  problem.band = {64, 64, 8, 8, 0}, problem.dim = 64;
  return problem;
}

// A line a row of the kernel table: its name, a tab, and nothing or the reason why it refuses this op and dtype.
std::string kernels(const std::string& op, const std::string& dtype) {
  std::string lines;
  for (const Verdict& verdict : verdicts(any_problem(op, dtype), this_device())) lines += verdict.name + '\t' + verdict.why_not + '\n';
  return lines;
}

// Runs a row's loop of independent multiply-adds in registers on so many threads; returns how many it did in all.
std::int64_t multiply_adds(const std::string& backend, const std::string& dtype, std::int64_t steps, std::int64_t threads) {
  std::uint32_t available = 1;
  TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&available));
  require(steps >= 1, "steps", std::to_string(steps), "at least 1");
  require(1 <= threads && threads <= available, "threads", std::to_string(threads), "from 1 to torch.get_num_threads()");
  const Problem problem = any_problem("band_out", dtype);
  const Kernel* kernel = nullptr;
  check(select(problem, this_device(), backend.c_str(), &kernel));
  require(kernel->spin != nullptr, "backend", backend, "one that has kernels of its own");
  std::vector<index_t> done(static_cast<std::size_t>(threads));
  const Executor executor{torch_threads};
  executor.for_each_range(threads, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) done[static_cast<std::size_t>(t)] = kernel->spin(problem.dtype, steps);
  });
  return std::accumulate(done.begin(), done.end(), index_t{0});
}

// A line a fact: its name, a tab, its value.
std::string facts() {
  const DeviceInfo& device = this_device();
  const char* forced = std::getenv("WINDOW_MATMUL_BACKEND");
  const auto yes_or_no = [](bool yes) { return yes ? "yes" : "no"; };
  const auto target = static_cast<std::uint64_t>(TORCH_TARGET_VERSION);
  const std::string compiler = __VERSION__;  // Clang's begins with its name
  std::string lines = "version\t" WINDOW_MATMUL_VERSION "\ncompiler\t" + (compiler < ":" ? "GCC " + compiler : compiler) + "\n";
  lines += "torch ABI target\t" + std::to_string(target >> 56) + "." + std::to_string(target >> 48 & 0xff) + "\n";
  lines += std::string("AVX2 + FMA + F16C\t") + yes_or_no(device.avx2) + "\nAVX-512 F BW DQ VL\t" + yes_or_no(device.avx512) + "\n";
  lines +=
      "L1 data cache\t" + std::to_string(device.l1_bytes >> 10) + " KiB\nL2 cache\t" + std::to_string(device.l2_bytes >> 10) + " KiB\n";
  lines += std::string("WINDOW_MATMUL_BACKEND\t") + (forced ? forced : "(not set)") + "\n";
  return lines;
}

}  // namespace
}  // namespace window_matmul::binding

STABLE_TORCH_LIBRARY(window_matmul, library) {
  library.def("band_out(Tensor q, Tensor k, int left, int right, int[] dilation, SymInt shift, float fill) -> Tensor");
  library.def("band_in(Tensor a, Tensor v, int left, int right, int[] dilation, SymInt shift) -> Tensor");
  library.def("band_in_transposed(Tensor a, Tensor x, int left, int right, int[] dilation, SymInt shift, SymInt num_keys) -> Tensor");
  library.def("window_softmax(Tensor a, int left, int right, int[] dilation, SymInt shift, SymInt num_keys) -> Tensor");
  library.def("window_softmax_backward(Tensor g, Tensor p, int left, int right, int[] dilation, SymInt shift, SymInt num_keys) -> Tensor");
  library.def("_kernels(str op, str dtype) -> str");
  library.def("_multiply_adds(str backend, str dtype, int steps, int threads) -> int");
  library.def("_facts() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CPU, library) {
  using namespace window_matmul::binding;
  library.impl("band_out", TORCH_BOX(&band_out));
  library.impl("band_in", TORCH_BOX(&band_in));
  library.impl("band_in_transposed", TORCH_BOX(&band_in_transposed));
  library.impl("window_softmax", TORCH_BOX(&window_softmax));
  library.impl("window_softmax_backward", TORCH_BOX(&window_softmax_backward));
}

STABLE_TORCH_LIBRARY_IMPL(window_matmul, CompositeExplicitAutograd, library) {
  using namespace window_matmul::binding;
  library.impl("_kernels", TORCH_BOX(&kernels));
  library.impl("_multiply_adds", TORCH_BOX(&multiply_adds));
  library.impl("_facts", TORCH_BOX(&facts));
}
