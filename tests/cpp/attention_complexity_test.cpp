// tests/cpp/attention_complexity_test.cpp: the work of fused attention is that of the band, L * W * (D + Dv), forward and backward: counted
// in multiply-adds, not in seconds.
#include <gtest/gtest.h>

#include "attention_trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

constexpr index_t kDim = 32;  // fills whole vectors on every instruction set, and a step of tiles

class AttentionComplexity : public OnEachAttention {
 protected:
  struct Work {
    index_t asked, executed;
  };
  Work work(index_t length, Window window) const {
    AttentionTrial trial(taken({.queries = length, .keys = length, .dim = kDim, .value_dim = kDim, .window = {0, 0}}), 1);
    Problem problem{.op = op(), .band = {length, length, window.left, window.right, 0}, .dim = kDim, .attention = {.value_dim = kDim}};
    if (!window.dilation.empty()) problem.dilation = window.dilation;
    trial.give_results_of_forward(zeros_of(trial.c));
    AttentionInputs in = trial.inputs();
    in.window = std::move(window);
    RunStats stats;
    RunOptions counted = options();
    counted.stats = &stats;
    const Status status = op() == Op::attention ? window_attention(in, trial.out.view(), trial.lse.view(), counted)
                                                : window_attention_backward(in, trial.out.view(), trial.lse.view(), trial.d_out.view(), {},
                                                                            trial.gradients(), counted);
    EXPECT_EQ(status.message(), "");
    EXPECT_GE(stats.work_items, 1);
    return {problem.multiply_adds(), stats.multiply_adds};
  }
  index_t per_pair() const { return op() == Op::attention ? 2 * kDim : 5 * kDim; }
  index_t longer() const { return is_reference(row()) ? 128 : 384; }
};

// A block of at most 64 queries walks the keys that any of them sees, in whole tiles of at most 64 keys at either end.
TEST_P(AttentionComplexity, WasteIsBoundedForEachRow) {
  for (const index_t w : {16, 50, 128}) {
    for (const index_t right : {index_t{0}, w}) {
      for (const index_t dilation : {1, 3}) {
        const index_t length = longer() - 7;
        const Work done = work(length, {w, right, {dilation}});
        EXPECT_GE(done.executed, done.asked) << "window (" << w << ", " << right << ") dilation " << dilation;
        EXPECT_LE(done.executed, done.asked + length * 3 * 64 * per_pair())
            << "window (" << w << ", " << right << ") dilation " << dilation;
      }
    }
  }
}

TEST_P(AttentionComplexity, GrowsLinearlyWithTheLength) {
  const index_t n = longer();
  for (const index_t w : {16, 32}) {
    const index_t steps[] = {work(2 * n, {w, w}).executed - work(n, {w, w}).executed,
                             work(4 * n, {w, w}).executed - work(2 * n, {w, w}).executed};
    EXPECT_NEAR(static_cast<double>(steps[1]) / static_cast<double>(steps[0]), 2, 0.05) << "twice the length more: twice the work more";
  }
}

TEST_P(AttentionComplexity, GrowsLinearlyWithTheWindow) {
  const index_t n = 4 * longer(), w = n / 24;
  const index_t steps[] = {work(n, {2 * w, 0}).executed - work(n, {w, 0}).executed,
                           work(n, {4 * w, 0}).executed - work(n, {2 * w, 0}).executed};
  EXPECT_NEAR(static_cast<double>(steps[1]) / static_cast<double>(steps[0]), 2, 0.2) << "so many keys more, then twice as many";
}

TEST_P(AttentionComplexity, KeysBehindTheLengthOfAnEntryCostNothing) {
  const auto executed = [&](const AttentionCase& c) {
    AttentionTrial trial(taken(c), 1);
    trial.give_results_of_forward(zeros_of(c));
    RunStats stats;
    RunOptions counted = options();
    counted.stats = &stats;
    EXPECT_EQ(trial.run(op(), counted).message(), "");
    return stats.multiply_adds;
  };
  AttentionCase c{.queries = 64, .keys = 64, .dim = kDim, .value_dim = kDim, .window = {kUnbounded, kUnbounded}};
  const index_t alone = executed(c);
  c.keys = longer(), c.key_lengths = {64};
  EXPECT_EQ(executed(c), alone);
}

WINDOW_MATMUL_TEST_EACH_ATTENTION(AttentionComplexity);

}  // namespace
}  // namespace window_matmul
