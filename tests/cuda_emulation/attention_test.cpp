// tests/cuda_emulation/attention_test.cpp: the CUDA kernels of fused attention against the definition: sizes, options alone and in pairs.
#include <gtest/gtest.h>

#include "emulated_attention.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class Attention : public testing::TestWithParam<Arithmetic> {
 protected:
  testing::AssertionResult check(const AttentionCase& c, std::uint64_t seed) { return check_emulated(Op::attention, c, GetParam(), seed); }
  Emulated emulated;
};

TEST_P(Attention, SizesAndWindows) {
  Random random(31);
  for_each_size(random, [&](const AttentionCase& c) { ASSERT_TRUE(check(c, random.bits())); });
}

TEST_P(Attention, EachOption) {
  Random random(32);
  for_each_option(random, [&](const AttentionCase& c) { ASSERT_TRUE(check(c, random.bits())); });
}

TEST_P(Attention, RandomPairsOfOptions) {
  Random random(33);
  for (int n = 0; n < 40; ++n) ASSERT_TRUE(check(any_attention_with_options(random, 70, 20, 2), random.bits()));
}

TEST_P(Attention, LongHeads) {
  const index_t most = size_of(GetParam().dtype) == 2 ? 256 : 128;
  for (const auto& [dim, value_dim] : {std::pair<index_t, index_t>{65, 40}, {40, 128}, {most, most}})
    for (const index_t mask : {0, 1}) {
      AttentionCase c = plain(40, 90, 20, 20);
      c.dim = dim, c.value_dim = value_dim, c.key_mask = mask != 0;
      ASSERT_TRUE(check(c, 34));
    }
}

// Keys in several parts, some of which a query does not see, or not at all.
TEST_P(Attention, FewQueries) {
  Random random(35);
  for (const index_t queries : {1, 3, 16})
    for (const AttentionOption& option : attention_options()) {
      SCOPED_TRACE(option.name);
      AttentionCase c = plain(queries, 1100, kUnbounded, 0);
      if (random.one_in(2)) c.window.left = 700, c.window.right = 5;
      if (!random.one_in(4) && option.name != std::string("dilation")) continue;
      option.use(c, random);
      c.keys = std::max<index_t>(c.keys, 1100);
      ASSERT_TRUE(check(settled(c, random), random.bits()));
    }
}

// An infinity or a NaN among the values shows in the rows that see it and in no other, without options and with one.
TEST_P(Attention, NonFiniteValuesStayWhereTheyAreSeen) {
  for (const auto& [value, softcap] : {std::pair{kInf, 0.0}, {kNaN, 0.0}, {kInf, 50.0}, {kNaN, 50.0}}) {
    AttentionCase c = as_computed(plain(150, 150, 9, 5), GetParam());
    c.softcap = softcap;
    AttentionTrial trial(c, 36), finite(c, 36);
    const index_t key = 70;
    trial.on_gpu = finite.on_gpu = true;
    trial.v.set(key * c.value_dim + 3, value);
    const RunOptions options{.device = &kAmpere, .precision = GetParam().precision};
    ASSERT_EQ(trial.run(Op::attention, options).message(), "");
    ASSERT_EQ(finite.run(Op::attention, options).message(), "");
    for (index_t n = 0; n < trial.out.size(); ++n) {
      const index_t row = n / c.value_dim;
      const bool sees = row - 9 <= key && key <= row + 5 && n % c.value_dim == 3;
      if (sees)
        ASSERT_FALSE(std::isfinite(trial.out[n])) << n;
      else
        ASSERT_NEAR(trial.out[n], finite.out[n], 0.02) << n;
    }
  }
}

// The weights that dropout keeps are those of the reference, to the last one: v tells the keys apart.
TEST_P(Attention, DropsWhatTheOthersDrop) {
  AttentionCase c = plain(40, 140, 20, 150);
  c.dropout_p = 0.5, c.batch = 2, c.heads = 2, c.kv_heads = 1, c.value_dim = 64;
  for (const index_t dilation : {1, 3}) {
    c.window.dilation = {dilation};
    ASSERT_TRUE(check(c, 37));
  }
  c.elsewhere = 7;
  ASSERT_TRUE(check(c, 37));
  c.batch = 1, c.cu_q = {0, 15, 40}, c.cu_k = {0, 60, 140};
  for (c.elsewhere = 0; c.elsewhere < 20; c.elsewhere += 11) ASSERT_TRUE(check(c, 37));
}

// A key that the bias hides from everybody may hold anything.
TEST_P(Attention, NothingComesFromHiddenKeys) {
  AttentionCase c = as_computed(plain(40, 40, 9, 5), GetParam());
  c.bias_rank = 4;
  AttentionTrial trial(c, 38), finite(c, 38);
  const RunOptions options{.device = &kAmpere, .precision = GetParam().precision};
  const index_t key = 20;
  for (AttentionTrial* t : {&trial, &finite}) {
    t->on_gpu = true;
    for (index_t row = key - 5; row <= key + 9; ++row) t->bias.set(row * c.width() + key - row + 9, -kInf);
  }
  for (index_t n = 0; n < c.dim; ++n) trial.k.set(key * c.dim + n, kNaN), trial.v.set(key * c.value_dim + n, kNaN);
  for (AttentionTrial* t : {&trial, &finite}) ASSERT_EQ(t->run(Op::attention, options).message(), "");
  for (index_t n = 0; n < trial.out.size(); ++n) ASSERT_NEAR(trial.out[n], finite.out[n], 0.02) << n;
}

INSTANTIATE_TEST_SUITE_P(Cuda, Attention, testing::ValuesIn(kArithmetics), [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace window_matmul
