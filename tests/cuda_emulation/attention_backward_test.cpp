// tests/cuda_emulation/attention_backward_test.cpp: the CUDA kernels of fused attention's gradients: sizes, options alone and in pairs,
// against the reference, and small ones against the definition's complex steps.
#include <gtest/gtest.h>

#include "emulated_attention.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class AttentionBackward : public testing::TestWithParam<Arithmetic> {
 protected:
  testing::AssertionResult check(const AttentionCase& c, std::uint64_t seed) {
    return check_emulated(Op::attention_backward, c, GetParam(), seed);
  }
  testing::AssertionResult check_as_reference(const AttentionCase& c, std::uint64_t seed) {
    AttentionTrial trial(as_computed(c, GetParam()), seed);
    trial.on_gpu = true;
    Emulated::how.seed = seed, Emulated::how.max_blocks = static_cast<index_t>(seed % 3);
    return trial.check_as_reference(Op::attention_backward, {.device = &kAmpere, .precision = GetParam().precision});
  }
  Emulated emulated;
};

AttentionCase plain(index_t queries, index_t keys, index_t left, index_t right) {
  AttentionCase c{.heads = 1, .kv_heads = 1, .queries = queries, .keys = keys, .dim = 16, .value_dim = 16};
  c.window = {left, right};
  return c;
}

TEST_P(AttentionBackward, SizesAndWindows) {
  Random random(41);
  for (const index_t size : {1, 63, 130, 200})
    for (const auto& [left, right] : {std::pair<index_t, index_t>{0, 0}, {16, 3}, {64, 64}, {300, 300}}) {
      AttentionCase c = plain(size, size, left, right);
      c.dim = random.pick(Shape{8, 16, 33}), c.value_dim = random.pick(Shape{8, 16, 20});
      ASSERT_TRUE(check_as_reference(c, random.bits()));
    }
}

TEST_P(AttentionBackward, EachOption) {
  Random random(42);
  for (const AttentionOption& option : attention_options()) {
    SCOPED_TRACE(option.name);
    AttentionCase c = plain(140, 150, 20, 9);
    c.batch = 2, c.layout_seed = random.one_in(2) ? 0 : random.bits();
    option.use(c, random);
    EXPECT_TRUE(check_as_reference(settled(c, random), random.bits()));
  }
}

TEST_P(AttentionBackward, RandomPairsOfOptions) {
  Random random(43);
  for (int n = 0; n < 20; ++n) EXPECT_TRUE(check(any_attention_with_options(random, 24, 9, 2), random.bits()));
}

TEST_P(AttentionBackward, LongHeads) {
  const index_t most = size_of(GetParam().dtype) == 2 ? 256 : 128;
  for (const auto& [dim, value_dim] : {std::pair<index_t, index_t>{65, 40}, {40, 128}, {most, most}})
    for (const index_t mask : {0, 1}) {
      AttentionCase c = plain(40, 90, 20, 20);
      c.dim = dim, c.value_dim = value_dim, c.key_mask = mask != 0;
      ASSERT_TRUE(check_as_reference(c, 44));
    }
}

INSTANTIATE_TEST_SUITE_P(Cuda, AttentionBackward, testing::ValuesIn(kArithmetics), [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace window_matmul
