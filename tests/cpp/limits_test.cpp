// tests/cpp/limits_test.cpp: offsets, dilations and sizes at the far end of the integers: no product wraps, nothing is touched that is not
// there.
#include <gtest/gtest.h>

#include "rows.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

constexpr index_t kFar[] = {index_t{1} << 31, index_t{1} << 33, (index_t{1} << 60) - 1, index_t{1} << 60};

class Limits : public OnEachRowAndOp {
 protected:
  // Large strides of either sign: what is multiplied with a large offset or dilation.
  static std::vector<Case> scenes() {
    std::vector<Case> all;
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      Case c{.rows = 30, .cols = 40, .window = {2, 3}, .dim = 20, .dtype = dtype, .lead_x = {2}, .lead_y = {2}};
      all.push_back(c);
      c.x = c.y = c.out = {.turned = true, .step = 3, .gap = 50};
      all.push_back(c);
      c.x = c.y = c.out = {.backwards = true, .gap = 100};
      all.push_back(c);
    }
    return all;
  }
};

TEST_P(Limits, OffsetsBeyondEveryKey) {
  for (Case c : scenes()) {
    for (const index_t far : kFar) {
      for (const index_t offset : {far, -far}) {
        c.window.query_offset = offset;
        Trial trial(op(), taken(c), 1);
        ASSERT_TRUE(trial.check(options()));
      }
    }
  }
}

TEST_P(Limits, DilationsBeyondEveryKeyLeaveTheAlignedOne) {
  for (Case c : scenes()) {
    for (const index_t far : kFar) {
      for (const Shape& dilation : {Shape{far}, Shape{1, far}}) {
        c.window.dilation = dilation;
        Trial trial(op(), taken(c), 1);
        ASSERT_TRUE(trial.check(options()));
      }
    }
  }
}

WINDOW_MATMUL_TEST_EACH_ROW_AND_OP(Limits);

class LimitsOfRows : public OnEachRow {};

TEST_P(LimitsOfRows, SoftmaxOverEndlessKeys) {
  for (const Op op : {Op::softmax, Op::softmax_backward}) {
    for (const index_t num_keys : kFar) {
      for (const std::optional<index_t> offset :
           {std::optional<index_t>{}, std::optional<index_t>{-1}, std::optional<index_t>{num_keys - 3}}) {
        Trial trial(op, {.rows = 5, .cols = num_keys, .window = {2, 3, {1}, offset}, .dtype = dtypes().front()}, 1);
        ASSERT_TRUE(trial.check(options()));
      }
    }
  }
}

TEST_P(LimitsOfRows, EndlessWindowsOverNoQueries) {
  for (const index_t side : {index_t{1} << 33, (index_t{1} << 58) - 1}) {
    for (const Op op : kOps) {
      Trial trial(op, {.rows = 0, .cols = 3, .window = {side, side}, .dim = 2, .dtype = dtypes().front()}, 1);
      ASSERT_TRUE(trial.check(options()));
    }
  }
}

// Nothing is to be done for any of the heads: not even to count them.
TEST_P(LimitsOfRows, EndlessHeadsWithoutQueries) {
  constexpr index_t kHeads = index_t{1} << 45;
  for (const Shape& lead : {Shape{kHeads}, Shape{kHeads, 1}, Shape{1, kHeads}, Shape{0, kHeads}, Shape{kHeads, 0}}) {
    for (const Op op : kOps) {
      Case c{.rows = 0, .cols = op == Op::band_in_transposed ? 0 : 3, .window = {2, 3}, .dim = 2, .dtype = dtypes().front()};
      c.lead_x = lead, c.lead_y = {1};
      Trial trial(op, c, 1);
      ASSERT_EQ(trial.run(options()).message(), "") << name_of(op) << " " << text(lead);
    }
  }
}

WINDOW_MATMUL_TEST_EACH_ROW(LimitsOfRows);

}  // namespace
}  // namespace window_matmul
