// tests/cuda_emulation/emulated_attention.hpp: fused attention on one case, from the public operators down to the kernels in the emulation.
#pragma once

#include "attention_trial.hpp"
#include "cuda/arch/emulated.hpp"
#include "cuda/cuda.hpp"
#include "emulated_trial.hpp"

namespace window_matmul::testing_tools {

inline const DeviceInfo kAmpere{.kind = DeviceInfo::Kind::cuda, .major = 8, .minor = 0, .multiprocessors = 108, .shared_bytes = 163 << 10};

inline std::string name_of(const Arithmetic& of) {
  return std::string(name_of(of.dtype)) + (of.precision == Precision::high ? "_high" : "");
}

// While it lives, calls with tensors on a GPU run in the emulation.
class Emulated {
 public:
  Emulated() { cuda::set_runner(&kRunner); }
  ~Emulated() { cuda::set_runner(nullptr); }
  Emulated(const Emulated&) = delete;
  Emulated& operator=(const Emulated&) = delete;

  static inline cuda::emulation::Run how = {};
  static inline cuda::emulation::Report report = {};  // of the last run

 private:
  static Status run(const Problem& problem, const cuda::Plan& plan, const Args& args) {
    report = cuda::emulation::run_emulated(problem, plan, args, how);
    if (report.ok()) return {};
    std::string text = std::to_string(report.num_errors) + " errors:";
    for (const std::string& error : report.errors) text += "\n  " + error;
    return {StatusCode::device_failed, text};
  }
  static constexpr cuda::Runner kRunner{run, "sm_80"};
};

// The case as these kernels compute it.
inline AttentionCase as_computed(AttentionCase c, const Arithmetic& arithmetic) {
  c.dtype = arithmetic.dtype;
  c.narrows_weights = size_of(c.dtype) == 2, c.splits_factors = arithmetic.precision == Precision::high;
  return c;
}

enum class Beside : std::uint8_t { definition, reference };

inline testing::AssertionResult check_emulated(Op op, const AttentionCase& c, const Arithmetic& arithmetic, std::uint64_t seed,
                                               Beside beside = Beside::definition) {
  AttentionTrial trial(as_computed(c, arithmetic), seed);
  trial.on_gpu = true;
  Emulated::how.seed = seed, Emulated::how.max_blocks = static_cast<index_t>(seed % 3);
  const RunOptions options{.device = &kAmpere, .precision = arithmetic.precision};
  return beside == Beside::definition ? trial.check(op, options) : trial.check_as_reference(op, options);
}

inline AttentionCase plain(index_t queries, index_t keys, index_t left, index_t right) {
  AttentionCase c{.heads = 1, .kv_heads = 1, .queries = queries, .keys = keys, .dim = 16, .value_dim = 16};
  c.window = {left, right};
  return c;
}

// Sequences around the sizes of blocks, and windows narrower and wider than they are. f asserts; what fails is not gone on with.
template <class F>
void for_each_size(Random& random, F&& f) {
  for (const index_t size : {1, 63, 130, 200})
    for (const auto& [left, right] : {std::pair<index_t, index_t>{0, 0}, {16, 3}, {64, 64}, {300, 300}}) {
      AttentionCase c = plain(size, size, left, right);
      c.dim = random.pick(Shape{8, 16, 33}), c.value_dim = random.pick(Shape{8, 16, 20});
      f(c);
      if (testing::Test::HasFatalFailure()) return;
    }
}

// Each option alone, on more than a block.
template <class F>
void for_each_option(Random& random, F&& f) {
  for (const AttentionOption& option : attention_options()) {
    SCOPED_TRACE(option.name);
    AttentionCase c = plain(140, 150, 20, 9);
    c.batch = 2, c.layout_seed = random.one_in(2) ? 0 : random.bits();
    option.use(c, random);
    f(settled(c, random));
    if (testing::Test::HasFatalFailure()) return;
  }
}

// What a call multiplies and, where `traffic` asks for it, moves: one head without options. Needs an Emulated.
inline const cuda::emulation::Report& counted(Op op, index_t length, index_t window, index_t dim, const Arithmetic& arithmetic,
                                              bool traffic) {
  AttentionCase c{.queries = length, .keys = length, .dim = dim, .value_dim = dim, .window = {window, window}};
  c.with_lse = op == Op::attention;
  AttentionTrial trial(as_computed(c, arithmetic), 41);
  if (op == Op::attention_backward) trial.give_results_of_forward(zeros_of(c));
  Emulated::how = {.seed = 41, .count_traffic = traffic};
  const Status status = trial.run(op, {.device = &kAmpere, .precision = arithmetic.precision});
  Emulated::how = {};
  EXPECT_EQ(status.message(), "");
  return Emulated::report;
}

// Multiply-adds of one product of tensor cores over the tiles of 16 queries by 16 keys that hold a pair.
inline double products_of_touched_tiles(index_t length, index_t window, index_t dim, const Arithmetic& arithmetic) {
  const Band band{length, length, window, window, 0};
  index_t tiles = 0;
  for (index_t row = 0; row < length; row += 16)
    for (index_t column = 0; column < length; column += 16)
      tiles += !band.keys_any({row, row + 16}).intersect({column, column + 16}).empty();
  return static_cast<double>(tiles * 16 * 16 * dim * (arithmetic.precision == Precision::high ? 3 : 1));
}

}  // namespace window_matmul::testing_tools
