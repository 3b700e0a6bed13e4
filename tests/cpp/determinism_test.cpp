// tests/cpp/determinism_test.cpp: results do not depend on the executor, bit for bit, nor on what a thread computed before.
#include <gtest/gtest.h>

#include "executors.hpp"
#include "rows.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class Determinism : public OnEachRowAndOp {
 protected:
  // Many heads, many blocks of rows, dilation parts of unequal lengths, and one item alone.
  std::vector<Case> scenes() const {
    if (row() == "reference")
      return {{.rows = 60, .cols = 50, .window = {9, 5, {1, 3}}, .dim = 8, .lead_x = {2}, .lead_y = {2}}};  // it has no threads
    return {
        {.rows = 400, .cols = 400, .window = {20, 30}, .dim = 24, .lead_x = {2, 2}, .lead_y = {2, 2}},
        {.rows = 450, .cols = 430, .window = {70, 0}, .dim = 17, .dtype = DType::bf16, .lead_x = {2}, .lead_y = {2}, .y = {.turned = true}},
        {.rows = 401, .cols = 401, .window = {9, 9, {1, 3, 7}}, .dim = 8, .dtype = DType::f16, .lead_x = {3}, .lead_y = {1}},
        {.rows = 411, .cols = 400, .window = {200, 130, {2}}, .dim = 3, .dtype = DType::f64},
        {.rows = 7, .cols = 9, .window = {2, 2}, .dim = 5}};
  }
};

TEST_P(Determinism, EveryExecutorGivesTheSameBits) {
  for (const Case& c : scenes()) {
    Trial trial(op(), taken(c), 1);
    ASSERT_TRUE(trial.check(options()));
    const std::vector<std::byte> serial = trial.out.bits();
    const Executor executors[] = {{}, thread_executor(3), one_by_one_backwards(), a_new_thread_each_time()};
    for (std::size_t n = 0; n < std::size(executors); ++n) {
      trial.out.blank();
      RunOptions others = options();
      others.executor = executors[n];
      ASSERT_TRUE(trial.run(others).ok());
      ASSERT_TRUE(trial.out.bits() == serial) << "executor " << n << ", " << name_of(op()) << " of " << text(c);
    }
  }
}

// Scratch that a thread keeps must not carry anything from one problem to the next.
TEST_P(Determinism, EarlierProblemsLeaveNothingBehind) {
  const std::vector<Case> all = scenes();
  std::vector<Trial> trials;
  std::vector<std::vector<std::byte>> first;
  for (const Case& c : all) {
    trials.emplace_back(op(), taken(c), 1);
    ASSERT_TRUE(trials.back().run(options()).ok());
    first.push_back(trials.back().out.bits());
  }
  for (std::size_t n = all.size(); n-- > 0;) {
    for (const Op before : kOps) {
      Trial poisoned(before, taken(all[(n + 2) % all.size()]), 1);
      poisoned.x.blank();
      ASSERT_TRUE(poisoned.run(options()).ok());
      trials[n].out.blank();
      ASSERT_TRUE(trials[n].run(options()).ok());
      ASSERT_TRUE(trials[n].out.bits() == first[n]) << name_of(op()) << " of " << text(all[n]) << " after " << name_of(before);
    }
  }
}

WINDOW_MATMUL_TEST_EACH_ROW_AND_OP(Determinism);

}  // namespace
}  // namespace window_matmul
