// tests/cpp/ops_test.cpp: every operator on every row of the kernel table, against its definition: all tiny shapes, the case list, and
// random ones.
#include "window_matmul/ops.hpp"

#include <gtest/gtest.h>

#include <cstdio>

#include "rows.hpp"
#include "trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

// Says which rows the run covers, and why it does not cover the others.
class PrintRows : public testing::Environment {
 public:
  void SetUp() override {
    for (const Verdict& v : verdicts(Problem{}, this_device())) {
      std::printf("kernel table: %-12s %s\n", v.name.c_str(), v.why_not.empty() ? "tested" : ("not here: " + v.why_not).c_str());
    }
  }
};
const testing::Environment* const print_rows = testing::AddGlobalTestEnvironment(new PrintRows);

class Ops : public OnEachOp {};

TEST_P(Ops, AllTinyShapes) {
  Random random(2);
  for (index_t rows = 0; rows <= 5; ++rows) {
    for (index_t cols = 0; cols <= 5; ++cols) {
      for (index_t left = 0; left <= 3; ++left) {
        for (index_t right = 0; right <= 3; ++right) {
          for (index_t shift = -4; shift <= 4; ++shift) {
            Case c = any_case(random, rows, cols, left, right);
            c.dim = random.up_to(9), c.window.query_offset = shift;
            expect_right(c, random.bits());
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_P(Ops, CaseList) {
  for (const Case& c : cases()) {
    expect_right(c, 3);
    if (HasFatalFailure()) return;
  }
}

TEST_P(Ops, RandomShapes) {
  Random random(4);
  for (int n = 0; n < 300; ++n) {
    const index_t rows = random.up_to(200), cols = random.up_to(200), left = random.up_to(100), right = random.up_to(100);
    Case c = any_case(random, rows, cols, left, right);
    c.dim = random.up_to(70);
    expect_right(within(c, 100'000), random.bits());
    if (HasFatalFailure()) return;
  }
}

// Operands that end, or begin, where the next byte faults: a kernel that reads a full vector there does not survive.
TEST_P(Ops, TouchesNothingBeyondItsTensors) {
  Random random(5);
  for (int n = 0; n < 300; ++n) {
    const index_t rows = random.up_to(70), cols = random.up_to(70), left = random.up_to(20), right = random.up_to(20);
    Case c = any_case(random, rows, cols, left, right);
    c.dim = random.up_to(40);
    for (const Around around : {Around::fence_before, Around::fence_after}) {
      expect_right(within(c, 50'000), random.bits(), around);
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllRows, Ops, testing::ValuesIn(kOps), name_of_op);

}  // namespace
}  // namespace window_matmul
