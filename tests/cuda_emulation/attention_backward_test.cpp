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
    return check_emulated(Op::attention_backward, c, GetParam(), seed, Beside::reference);
  }
  Emulated emulated;
};

// Heads that share keys have one dilation: others are refused.
AttentionCase with_dilations_of_groups(AttentionCase c) {
  for (std::size_t h = 0; c.window.dilation.size() > 1 && h < c.window.dilation.size(); ++h)
    c.window.dilation[h] = c.window.dilation[h / static_cast<std::size_t>(c.group()) * static_cast<std::size_t>(c.group())];
  return c;
}

TEST_P(AttentionBackward, SizesAndWindows) {
  Random random(41);
  for_each_size(random, [&](const AttentionCase& c) { ASSERT_TRUE(check_as_reference(c, random.bits())); });
}

TEST_P(AttentionBackward, EachOption) {
  Random random(42);
  for_each_option(random, [&](const AttentionCase& c) { ASSERT_TRUE(check_as_reference(c, random.bits())); });
}

TEST_P(AttentionBackward, RandomPairsOfOptions) {
  Random random(43);
  for (int n = 0; n < 40; ++n) ASSERT_TRUE(check(with_dilations_of_groups(any_attention_with_options(random, 24, 9, 2)), random.bits()));
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

TEST_P(AttentionBackward, HeadsThatShareKeysAndDifferInDilationAreRefused) {
  AttentionCase c = plain(10, 10, 2, 2);
  c.heads = 2, c.window.dilation = {1, 2};
  AttentionTrial trial(as_computed(c, GetParam()), 49);
  trial.on_gpu = true;
  const Status status = trial.run(Op::attention_backward, {.device = &kAmpere, .precision = GetParam().precision});
  EXPECT_NE(status.message().find("differ in dilation"), std::string::npos) << status.message();
}

// A NaN shows in the gradients of what it is seen with, and in no other.
TEST_P(AttentionBackward, NonFiniteValuesStayWhereTheyAreSeen) {
  constexpr index_t kLength = 150, kLeft = 9, kRight = 5, kAt = 70;
  const AttentionCase c = as_computed(plain(kLength, kLength, kLeft, kRight), GetParam());
  AttentionTrial finite(c, 45);
  const AttentionResults want = finite.from_reference(), errors = finite.errors();
  enum : int { of_q, of_k, of_v, of_d_out };
  for (const int which : {of_q, of_k, of_v, of_d_out}) {
    AttentionTrial trial(c, 45);
    Tensor* tensors[] = {&trial.q, &trial.k, &trial.v, &trial.d_out};
    trial.on_gpu = true, trial.give_results_of_forward(want);
    tensors[which]->set(kAt * 16 + 3, kNaN);
    ASSERT_EQ(trial.run(Op::attention_backward, {.device = &kAmpere, .precision = GetParam().precision}).message(), "");
    const bool is_query = which == of_q || which == of_d_out;
    const auto check_rows = [&](const Tensor& got, const std::vector<double>& right, const std::vector<double>& error, auto is_hit) {
      for (index_t row = 0; row < kLength; ++row) {
        bool all_right = true;
        for (index_t n = row * 16; n < row * 16 + 16; ++n) {
          const auto i = static_cast<std::size_t>(n);
          const Expected expected = stored(got.dtype(), right[i], error[i]);
          all_right = all_right && std::abs(got[n] - expected.value) <= expected.tolerance;
        }
        ASSERT_EQ(all_right, !is_hit(row)) << "row " << row << " of tensor " << which;
      }
    };
    const auto sees_it = [&](index_t row) { return row - kLeft <= kAt && kAt <= row + kRight; };
    const auto is_seen_by_it = [&](index_t key) { return kAt - kLeft <= key && key <= kAt + kRight; };
    check_rows(trial.d_q, want.d_q, errors.d_q, [&](index_t row) { return is_query ? row == kAt : sees_it(row); });
    check_rows(trial.d_k, want.d_k, errors.d_k, [&](index_t key) { return is_query ? is_seen_by_it(key) : key == kAt; });
    check_rows(trial.d_v, want.d_v, errors.d_v, [&](index_t key) { return is_query ? is_seen_by_it(key) : which == of_k && key == kAt; });
  }
}

// A bias of -1e9 everywhere changes nothing but the log-sum-exp, whose rounding is then larger than the logarithm of any sum.
TEST_P(AttentionBackward, LowMasksLeaveTheGradientsAsTheyAre) {
  AttentionCase c = plain(70, 70, 5, 5);
  c.bias_rank = 4, c.with_lse = false, c.float_extras = true, c.sinks = true, c.sinks_from = -1e9;
  AttentionTrial low(as_computed(c, GetParam()), 46);
  c.sinks_from = 0;
  AttentionTrial usual(as_computed(c, GetParam()), 46);
  for (AttentionTrial* trial : {&low, &usual}) {
    const double shift = trial == &low ? -1e9 : 0;
    for (index_t n = 0; n < trial->q.size(); ++n) trial->q.set(n, 0);
    for (index_t n = 0; n < trial->bias.size(); ++n) trial->bias.set(n, shift);
    trial->sinks.set(0, shift);
  }
  AttentionResults want = usual.from_reference();
  const AttentionResults errors = usual.errors();
  for (double& lse : want.lse) lse -= 1e9;
  low.on_gpu = true;
  ASSERT_TRUE(low.check(Op::attention_backward, {.device = &kAmpere, .precision = GetParam().precision}, want, errors));
}

// Whatever takes which block, and in which order.
TEST_P(AttentionBackward, BitsDoNotDependOnTheGrid) {
  AttentionCase c = plain(140, 140, 40, 20);
  c.batch = 2, c.heads = 4, c.kv_heads = 2, c.bias_rank = 2, c.sinks = true;
  AttentionTrial first(as_computed(c, GetParam()), 47), second(as_computed(c, GetParam()), 47);
  const AttentionResults& results = first.from_reference();
  for (AttentionTrial* trial : {&first, &second}) {
    trial->on_gpu = true, trial->give_results_of_forward(results);
    Emulated::how.seed = trial == &first ? 1 : 2, Emulated::how.max_blocks = trial == &first ? 1 : 0;
    ASSERT_EQ(trial->run(Op::attention_backward, {.device = &kAmpere, .precision = GetParam().precision}).message(), "");
  }
  EXPECT_EQ(first.bits(Op::attention_backward), second.bits(Op::attention_backward));
}

INSTANTIATE_TEST_SUITE_P(Cuda, AttentionBackward, testing::ValuesIn(kArithmetics), [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace window_matmul
