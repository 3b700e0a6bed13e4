// tests/cpp/problem_test.cpp: problems as values: equality, hash, text, and the work they ask for.
#include "window_matmul/problem.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <unordered_set>

#include "definition.hpp"
#include "trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

const Problem kProblem{
    .op = Op::band_out, .dtype = DType::f32, .band = {40, 50, 3, 2, 10}, .dilation = {2}, .batch = 5, .heads = 6, .dim = 7, .fill = 1};

// One with each field changed.
std::vector<Problem> variations() {
  std::vector<Problem> all(12, kProblem);
  all[0].op = Op::band_in, all[1].dtype = DType::bf16, all[2].band.rows = 41, all[3].band.cols = 51, all[4].band.left = 4;
  all[5].band.right = 3, all[6].band.shift = 11, all[7].dilation = {3}, all[8].batch = 6, all[9].heads = 7, all[10].dim = 8,
  all[11].fill = -kInf;
  return all;
}

TEST(Problem, EqualProblemsHashAndReadAlike) {
  const Problem copy = kProblem;
  EXPECT_EQ(copy, kProblem);
  EXPECT_EQ(std::hash<Problem>{}(copy), std::hash<Problem>{}(kProblem));
  EXPECT_EQ(to_string(copy), to_string(kProblem));
  Problem minus_zero = kProblem, zero = kProblem;
  minus_zero.fill = -0.0, zero.fill = 0.0;
  EXPECT_EQ(minus_zero, zero);
  EXPECT_EQ(std::hash<Problem>{}(minus_zero), std::hash<Problem>{}(zero)) << "equal, so the hash must be";
}

TEST(Problem, EveryFieldCounts) {
  std::unordered_set<Problem> seen = {kProblem};
  std::set<std::string> texts = {to_string(kProblem)};
  std::set<std::size_t> hashes = {std::hash<Problem>{}(kProblem)};
  for (const Problem& p : variations()) {
    EXPECT_NE(p, kProblem) << to_string(p);
    EXPECT_TRUE(seen.insert(p).second) << to_string(p);
    EXPECT_TRUE(texts.insert(to_string(p)).second) << to_string(p);
    EXPECT_TRUE(hashes.insert(std::hash<Problem>{}(p)).second) << to_string(p);
  }
}

TEST(Problem, IsOneLineThatNamesEverything) {
  EXPECT_EQ(to_string(kProblem),
            "band_out float32 batch=5 heads=6 queries=40 keys=50 dim=7 window=(3,2) shift=10 dilation=2 fill=1.000000");
  const Problem per_head{.op = Op::softmax_backward, .dtype = DType::f16, .band = {3, 4, 0, 1, -1}, .dilation = {1, 20}, .heads = 2};
  EXPECT_EQ(to_string(per_head), "softmax_backward float16 batch=1 heads=2 queries=3 keys=4 dim=0 window=(0,1) shift=-1 dilation=1,20");
}

TEST(Problem, NamesOfOpsAndDTypes) {
  EXPECT_STREQ(name_of(Op::band_out), "band_out");
  EXPECT_STREQ(name_of(Op::band_in), "band_in");
  EXPECT_STREQ(name_of(Op::band_in_transposed), "band_in_transposed");
  EXPECT_STREQ(name_of(Op::softmax), "softmax");
  EXPECT_STREQ(name_of(Op::softmax_backward), "softmax_backward");
  EXPECT_STREQ(name_of(DType::f64), "float64");
  EXPECT_STREQ(name_of(DType::f32), "float32");
  EXPECT_STREQ(name_of(DType::bf16), "bfloat16");
  EXPECT_STREQ(name_of(DType::f16), "float16");
}

TEST(Problem, DilationIsOneForAllOrOneAHead) {
  Problem p = kProblem;
  p.dilation = {3}, p.heads = 4;
  for (index_t head = 0; head < 4; ++head) EXPECT_EQ(p.dilation_of(head), 3);
  p.dilation = {1, 2, 3, 4};
  for (index_t head = 0; head < 4; ++head) EXPECT_EQ(p.dilation_of(head), head + 1);
}

TEST(Problem, MultiplyAddsAreThePairsOfTheDefinition) {
  Random random(1);
  for (int n = 0; n < 2000; ++n) {
    Problem p{.band = {random.up_to(20), random.up_to(20), random.up_to(8), random.up_to(8), random.up_to(20) - 10}};
    p.batch = random.up_to(3), p.heads = random.up_to(3), p.dim = random.up_to(5), p.dilation.clear();
    const index_t dilations = random.one_in(2) ? 1 : p.heads;
    for (index_t d = 0; d < dilations; ++d) p.dilation.push_back(1 + random.up_to(5));
    index_t pairs = 0;
    for (index_t head = 0; head < p.heads; ++head) {
      Head h{.rows = p.band.rows, .cols = p.band.cols, .left = p.band.left, .right = p.band.right, .shift = p.band.shift};
      h.dilation = p.dilation_of(head);
      h.for_each_pair([&](index_t, index_t, index_t) { ++pairs; });
    }
    ASSERT_EQ(p.multiply_adds(), p.batch * pairs * p.dim) << to_string(p);
  }
}

}  // namespace
}  // namespace window_matmul
