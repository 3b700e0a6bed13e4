// tests/cpp/attention_test.cpp: fused attention, forward and backward, on every row of the kernel table that has it, against its
// definition: every option alone, every pair of them, random combinations; then larger problems against the reference.
#include "window_matmul/attention.hpp"

#include <gtest/gtest.h>

#include "attention_trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class Attention : public OnEachAttention {
 protected:
  void expect_right(const AttentionCase& c, std::uint64_t seed, Around around = Around::canaries) {
    AttentionTrial trial(taken(c), seed, around);
    ASSERT_TRUE(trial.check(op(), options()));
  }
};

TEST_P(Attention, EachOptionAlone) {
  Random random(1);
  for (const AttentionOption& option : attention_options()) {
    for (int n = 0; n < 10; ++n) {
      SCOPED_TRACE(option.name);
      AttentionCase c = any_attention(random, 9, 5);
      option.use(c, random);
      expect_right(settled(c, random), random.bits());
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(Attention, EachPairOfOptions) {
  Random random(2);
  for (const AttentionOption& first : attention_options()) {
    for (const AttentionOption& second : attention_options()) {
      SCOPED_TRACE(std::string(first.name) + " and " + second.name);
      AttentionCase c = any_attention(random, 8, 4);
      first.use(c, random), second.use(c, random);
      expect_right(settled(c, random), random.bits());
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(Attention, RandomCombinations) {
  Random random(3);
  for (int n = 0; n < 600; ++n) {
    expect_right(any_attention_with_options(random, 9, 4, 3 + random.up_to(5)), random.bits());
    if (HasFatalFailure()) return;
  }
}

TEST_P(Attention, AllTinyShapes) {
  Random random(4);
  for (index_t queries = 0; queries <= 4; ++queries) {
    for (index_t keys = 0; keys <= 4; ++keys) {
      for (index_t left = 0; left <= 2; ++left) {
        for (index_t right = 0; right <= 2; ++right) {
          for (index_t offset = -3; offset <= 4; ++offset) {
            AttentionCase c = any_attention_with_options(random, 3, 3, random.up_to(3));
            c.cu_q = c.cu_k = c.key_lengths = c.query_offsets = {}, c.queries = queries, c.keys = keys;
            c.window.left = left, c.window.right = right, c.window.query_offset = offset;
            expect_right(c, random.bits());
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

// Operands that end, or begin, where the next byte faults.
TEST_P(Attention, TouchesNothingBeyondItsTensors) {
  Random random(5);
  for (int n = 0; n < 60; ++n) {
    const AttentionCase c = any_attention_with_options(random, 8, 5, random.up_to(5));
    for (const Around around : {Around::fence_before, Around::fence_after}) {
      expect_right(c, random.bits(), around);
      if (HasFatalFailure()) return;
    }
  }
}

// Lengths and dims beyond the tiles of the kernels.
TEST_P(Attention, LargerProblemsAsTheReference) {
  Random random(6);
  for (int n = 0; n < 45; ++n) {
    const index_t length = is_reference(row()) ? 40 : 160;
    AttentionCase c = any_attention_with_options(random, length, is_reference(row()) ? 20 : 60, random.up_to(5));
    if (random.one_in(2) && c.bias_rank == 0) c.window.left = random.up_to(length);
    AttentionTrial trial(taken(c), random.bits());
    ASSERT_TRUE(trial.check_as_reference(op(), options()));
  }
}

// Up to a few queries more than are taken together, with keys for several items: by options and by shapes.
TEST_P(Attention, FewQueriesOfManyKeysAsTheReference) {
  if (is_reference(row())) return;  // it is what they are compared with
  Random random(7);
  for (int n = 0; n < 30; ++n) {
    AttentionCase c = any_attention_with_options(random, 18, 40, random.up_to(4));
    c.keys = random.up_to(1300);
    c.heads = c.kv_heads * (1 + random.up_to(6));
    if (c.bias_rank == 0 && random.one_in(2)) c.window.left = random.up_to(1300);
    AttentionTrial trial(taken(settled(c, random)), random.bits());
    ASSERT_TRUE(trial.check_as_reference(op(), options()));
  }
}

// Windows of many tiles, sequences of many blocks, and dims of many registers.
TEST_P(Attention, LongWideAndDeepProblems) {
  if (is_reference(row())) return;  // it is what they are compared with
  const AttentionCase cases[] = {
      {.queries = 600, .keys = 600, .dim = 3, .value_dim = 5, .window = {250, 150}},
      {.queries = 130, .keys = 130, .dim = 600, .value_dim = 530, .window = {40, 0}},
      {.heads = 2, .queries = 70, .keys = 620, .dim = 17, .value_dim = 33, .window = {kUnbounded, 0}, .sinks = true},
      {.queries = 620, .keys = 70, .dim = 9, .value_dim = 8, .window = {3, kUnbounded}, .softcap = 2},
      {.queries = 600, .keys = 600, .dim = 4, .value_dim = 4, .window = {100, 100, {3}}, .dropout_p = 0.2},
      {.queries = 420, .keys = 420, .dim = 8, .value_dim = 4, .window = {64, 64}, .bias_rank = 4, .hides = true, .global_mask = true},
      {.queries = 300, .keys = 310, .dim = 5, .value_dim = 4, .window = {130, 70}, .bias_rank = 4, .hides = true},
      {.queries = 300,
       .keys = 300,
       .dim = 4,
       .value_dim = 4,
       .window = {100, 40, {2}},
       .dropout_p = 0.4,
       .bias_rank = 4,
       .float_extras = true},
      {.heads = 2, .queries = 300, .keys = 320, .dim = 5, .value_dim = 4, .window = {130, 70}, .bias_rank = 2, .hides = true},
      {.queries = 330,
       .keys = 330,
       .dim = 4,
       .value_dim = 4,
       .window = {100, 60, {2}},
       .bias_rank = 2,
       .float_extras = true,
       .global_tokens = 9},
      {.heads = 4, .queries = 300, .keys = 300, .dim = 8, .value_dim = 8, .window = {90, 20, {1, 2, 5, 1}}, .global_tokens = 110},
      {.queries = 1, .keys = 2000, .dim = 64, .value_dim = 64, .window = {1023, 0}, .key_mask = true},
  };
  // Each in fp32, dense, and in one other dtype.
  constexpr DType kOthers[] = {DType::f64, DType::bf16, DType::f16};
  for (std::size_t n = 0; n < std::size(cases); ++n) {
    for (const DType dtype : {DType::f32, kOthers[n % std::size(kOthers)]}) {
      AttentionCase one = cases[n];
      one.dtype = dtype, one.layout_seed = dtype == DType::f32 ? 0 : 7;
      AttentionTrial trial(taken(one), 8);
      ASSERT_TRUE(trial.check_as_reference(op(), options()));
    }
  }
}

WINDOW_MATMUL_TEST_EACH_ATTENTION(Attention);

}  // namespace
}  // namespace window_matmul
