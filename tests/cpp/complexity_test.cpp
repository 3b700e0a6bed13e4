// tests/cpp/complexity_test.cpp: the work of the matrix forms is that of the band, L * W * N: counted in multiply-adds, not in seconds.
#include <gtest/gtest.h>

#include "rows.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

constexpr index_t kDim = 16;  // fills whole vectors on every instruction set: what is counted below is the waste at the band's edges

class Complexity : public OnEachRowAndOp {
 protected:
  struct Work {
    index_t asked, executed;
  };
  Work work(index_t length, index_t left, index_t right, index_t dilation = 1) const {
    Problem problem{.op = op(), .band = {length, length, left, right, 0}, .dilation = {dilation}};
    problem.dim = kDim;
    Trial trial(op(), taken({.rows = length, .cols = length, .window = {left, right, {dilation}}, .dim = kDim}), 1);
    RunStats stats;
    EXPECT_EQ(trial.run({.backend = row().c_str(), .stats = &stats}).message(), "");
    EXPECT_GE(stats.work_items, 1);
    return {problem.multiply_adds(), stats.multiply_adds};
  }
};

// A tile has at most 8 rows and whole vectors of at most 16 keys: a row is multiplied with at most 7 + 15 keys that it does not see.
// That is at most 1.67 times what is asked for W = 33, and 2.3 times for W = 17.
TEST_P(Complexity, WasteIsBoundedForEachRow) {
  for (const index_t length : {512, 777}) {
    for (const index_t w : {16, 17, 50, 128}) {
      for (const index_t right : {index_t{0}, w}) {
        for (const index_t dilation : {1, 3}) {
          const Work done = work(length, w, right, dilation);
          EXPECT_GE(done.executed, done.asked) << "length " << length << " window (" << w << ", " << right << ") dilation " << dilation;
          EXPECT_LE(done.executed, done.asked + length * (7 + 15) * kDim)
              << "length " << length << " window (" << w << ", " << right << ") dilation " << dilation;
        }
      }
    }
  }
}

TEST_P(Complexity, GrowsLinearlyWithTheLength) {
  for (const index_t w : {16, 64}) {
    const index_t steps[] = {work(1024, w, w).executed - work(512, w, w).executed, work(2048, w, w).executed - work(1024, w, w).executed};
    EXPECT_NEAR(static_cast<double>(steps[1]) / static_cast<double>(steps[0]), 2, 0.02) << "twice the length more: twice the work more";
  }
}

TEST_P(Complexity, GrowsLinearlyWithTheWindow) {
  // Of a long sequence: at its ends windows are cut, the wider the more.
  const index_t steps[] = {work(3000, 48, 0).executed - work(3000, 16, 0).executed,
                           work(3000, 112, 0).executed - work(3000, 48, 0).executed};
  EXPECT_NEAR(static_cast<double>(steps[1]) / static_cast<double>(steps[0]), 2, 0.1) << "32 keys more, then 64 more";
}

constexpr Op kProducts[] = {Op::band_out, Op::band_in, Op::band_in_transposed};
INSTANTIATE_TEST_SUITE_P(Rows, Complexity, testing::ValuesIn(rows_and(kProducts)), name_of_row_and_op);

}  // namespace
}  // namespace window_matmul
