// tests/cpp/attention_facts_test.cpp: what holds of fused attention whatever its numbers: zero sizes, rows without keys, packed
// sequences, dropout, gradients that are not asked for, and executors.
#include <gtest/gtest.h>

#include "attention_trial.hpp"
#include "executors.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class AttentionFacts : public OnEachAttention {
 protected:
  bool is_backward() const { return op() == Op::attention_backward; }

  // Runs, with the forward's results where backward needs them, and returns the bits of the outputs.
  std::vector<std::byte> bits_of(AttentionTrial& trial, const Executor& executor = {}) {
    if (is_backward()) trial.give_results_of_forward(trial.expected(Op::attention));
    RunOptions all = options();
    all.executor = executor;
    EXPECT_EQ(trial.run(op(), all).message(), "") << text(trial.c);
    return trial.bits(op());
  }

  static std::vector<double> values_of(AttentionTrial& trial, Op op) {
    std::vector<double> all;
    for (const Tensor* t : trial.outputs(op)) {
      const std::vector<double> some = t->values();
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
};

TEST_P(AttentionFacts, ZeroSizesGiveZerosOrNothing) {
  using Size = index_t AttentionCase::*;
  for (const Size size : {&AttentionCase::batch, &AttentionCase::heads, &AttentionCase::queries, &AttentionCase::keys, &AttentionCase::dim,
                          &AttentionCase::value_dim}) {
    for (int extras = 0; extras < 3; ++extras) {
      AttentionCase c{.batch = 2, .heads = 2, .kv_heads = 1, .queries = 4, .keys = 4, .dim = 3, .value_dim = 5, .window = {1, 2}};
      c.scale = 0.5, c.bias_rank = 2 * extras, c.sinks = c.key_mask = extras > 0;
      c.*size = 0;
      AttentionTrial trial(taken(c), 1);
      EXPECT_TRUE(trial.check(op(), options()));
    }
  }
}

TEST_P(AttentionFacts, EmptyTensorsNeedNoMemory) {
  for (const index_t keys : {0, 3}) {
    AttentionTrial trial(taken({.batch = 2, .queries = 0, .keys = keys, .dim = 2, .value_dim = 2, .window = {1, 1}}), 1);
    AttentionInputs in = trial.inputs();
    AttentionGradients gradients = trial.gradients();
    TensorView out = trial.out.view(), lse = trial.lse.view(), d_out = trial.d_out.view();
    in.q.data = out.data = lse.data = d_out.data = gradients.d_q.data = nullptr;
    if (keys == 0) in.k.data = in.v.data = gradients.d_k.data = gradients.d_v.data = nullptr;
    const Status status = is_backward() ? window_attention_backward(in, out, lse, d_out, {}, gradients, options())
                                        : window_attention(in, out, lse, options());
    EXPECT_EQ(status.message(), "");
    for (index_t n = 0; is_backward() && n < trial.d_k.size(); ++n) EXPECT_EQ(trial.d_k[n], 0);
  }
}

// Nothing is to be done for any of them: not even to count them.
TEST_P(AttentionFacts, EndlessBatchesAndHeadsWithoutQueries) {
  constexpr index_t kMany = index_t{1} << 45;
  for (const auto& [batch, heads] : {std::pair{kMany, index_t{1}}, std::pair{index_t{1}, kMany}, std::pair{index_t{0}, kMany}}) {
    const auto dense = [](DType dtype, index_t b, index_t h) { return TensorView::contiguous(nullptr, dtype, {b, h, 0, 2}); };
    const TensorView q = dense(taken({}).dtype, batch, heads), k = q;
    TensorView lse = dense(DType::f32, batch, heads);
    lse.rank = 3;
    AttentionInputs in{.q = q, .k = k, .v = k, .window = {1, 1}};
    in.global_tokens = 2;
    const Status status =
        is_backward() ? window_attention_backward(in, q, lse, q, lse, {q, k, k}, options()) : window_attention(in, q, lse, options());
    EXPECT_EQ(status.message(), "");
  }
}

TEST_P(AttentionFacts, RowsWithoutKeysAreZeroWhateverIsAround) {
  for (const bool sinks : {false, true}) {
    for (const index_t offset : {-100, -3, 8, 100}) {
      AttentionCase c{.heads = 2, .queries = 5, .keys = 6, .dim = 3, .value_dim = 4, .window = {1, 1, {}, offset}, .sinks = sinks};
      AttentionTrial trial(taken(c), 1);  // q, d_out and d_lse of rows without keys are NaN
      EXPECT_TRUE(trial.check(op(), options()));
      c.key_mask = true;
      AttentionTrial masked(taken(c), 1);
      for (index_t j = 0; j < c.keys; ++j) masked.key_mask.at(0, j) = 0;
      EXPECT_TRUE(masked.check(op(), options()));
    }
  }
}

// Calls f(place in the packed tensor, place in that of one sequence whose rows begin at `first`).
template <class F>
void for_each_common_element(const Tensor& packed, const Tensor& alone, index_t first, F f) {
  const Shape& shape = alone.shape();
  const index_t columns = shape.size() == 4 ? shape[3] : 1;
  for (index_t h = 0; h < shape[1]; ++h)
    for (index_t n = 0; n < shape[2] * columns; ++n) f((h * packed.shape()[2] + first) * columns + n, h * shape[2] * columns + n);
}

// One sequence of packed ones, in tensors of its own.
AttentionTrial sequence_alone(AttentionTrial& packed, const Piece& piece) {
  AttentionCase c = packed.c;
  c.cu_q = c.cu_k = {}, c.queries = piece.queries, c.keys = piece.keys;
  AttentionTrial alone(c, 1);
  const auto copy = [](Tensor& to, const Tensor& from, index_t first) {
    for_each_common_element(from, to, first, [&](index_t whole, index_t part) { to.set(part, from[whole]); });
  };
  for (Tensor AttentionTrial::* const of_queries : {&AttentionTrial::q, &AttentionTrial::d_out, &AttentionTrial::d_lse})
    copy(alone.*of_queries, packed.*of_queries, piece.first_query);
  copy(alone.k, packed.k, piece.first_key), copy(alone.v, packed.v, piece.first_key);
  if (c.bias_rank == 4) copy(alone.bias, packed.bias, piece.first_query);
  for (index_t n = 0; c.bias_rank == 2 && n < alone.bias.size(); ++n) alone.bias.set(n, packed.bias[n]);
  for (index_t n = 0; n < alone.sinks.size(); ++n) alone.sinks.set(n, packed.sinks[n]);
  for (index_t j = 0; j < piece.keys; ++j) {
    alone.key_mask.at(0, j) = packed.key_mask.at(0, piece.first_key + j);
    alone.global_mask.at(0, j) = packed.global_mask.at(0, piece.first_key + j);
  }
  return alone;
}

TEST_P(AttentionFacts, PackedSequencesAreSeparateCalls) {
  Random random(3);
  for (int round = 0; round < 30; ++round) {
    AttentionCase c = any_attention_with_options(random, 20, 5, 3);
    c.cu_q = {0}, c.dropout_p = 0, c.layout_seed = 0;  // the number of the sequence enters the mask of dropout
    c = settled(c, random);
    AttentionTrial packed(taken(c), random.bits());
    bits_of(packed);
    for (const Piece& piece : c.pieces()) {
      AttentionTrial alone = sequence_alone(packed, piece);
      bits_of(alone);
      const AttentionResults& errors = alone.errors();
      const auto expect_alike = [&](const Tensor& whole, const Tensor& part, const std::vector<double>& error, index_t first) {
        for_each_common_element(whole, part, first, [&](index_t in_whole, index_t in_part) {
          const Expected want = stored(part.dtype(), part[in_part], 2 * error[static_cast<std::size_t>(in_part)]);
          ASSERT_LE(misfit(whole[in_whole], want), 1) << text(c);
        });
      };
      if (is_backward()) {
        expect_alike(packed.d_q, alone.d_q, errors.d_q, piece.first_query);
        expect_alike(packed.d_k, alone.d_k, errors.d_k, piece.first_key);
        expect_alike(packed.d_v, alone.d_v, errors.d_v, piece.first_key);
        if (c.bias_rank == 4) expect_alike(packed.d_bias, alone.d_bias, errors.d_bias, piece.first_query);
      } else {
        expect_alike(packed.out, alone.out, errors.out, piece.first_query);
        if (c.with_lse) expect_alike(packed.lse, alone.lse, errors.lse, piece.first_query);
      }
      if (HasFatalFailure()) return;
    }
  }
}

// The maximum and the log of the sum; together the log-sum-exp. Where nothing is seen, and in rows of no sequence, -inf and 0. The output
// is the same.
TEST_P(AttentionFacts, LogSumExpInTwo) {
  if (is_backward()) return;
  auto scenes = attention_scenes(true);
  scenes.push_back({.queries = 3, .keys = 0, .dim = 2, .value_dim = 2, .window = {1, 1}});
  for (const AttentionCase& c : scenes) {
    AttentionTrial trial(taken(c), 1);
    const AttentionResults &want = trial.expected(op()), &errors = trial.errors();
    const AttentionValues<double> x = trial.values();
    Tensor split(trial.lse.dtype(), {c.batch, c.heads, c.queries, 2}, Role::output, {}, Around::canaries);
    ASSERT_EQ(window_attention(trial.inputs(), trial.out.view(), split.view(), options()).message(), "");
    const AttentionDefinition<double> definition(c, x);
    for (index_t at = 0; at < trial.lse.size(); ++at) {
      const double lse = want.lse[static_cast<std::size_t>(at)];
      ASSERT_TRUE(lse != -kInf || (split[2 * at] == -kInf && split[2 * at + 1] == 0)) << text(c);
      trial.lse.set(at, lse);
    }
    for_each_row(c, [&](index_t s, index_t h, index_t i) {
      const auto at = definition.row_at(s, h, i);
      const auto row = definition.row(s, h, i);
      if (row.keys.empty()) return;
      double highest = -kInf;
      for (const auto& key : row.keys) highest = std::max(highest, key.score);
      const double error = errors.lse[static_cast<std::size_t>(at)];
      ASSERT_LE(misfit(split[2 * at], stored(split.dtype(), highest, error)), 1) << text(c);
      ASSERT_LE(misfit(split[2 * at + 1], stored(split.dtype(), row.lse - highest, error)), 1) << text(c);
    });
    ASSERT_EQ(trial.first_difference(op(), want, errors, zeros_of(c)), "") << text(c);
  }
}

TEST_P(AttentionFacts, DroppingEverythingGivesZero) {
  AttentionTrial trial(
      taken({.heads = 2, .queries = 9, .keys = 9, .dim = 4, .value_dim = 4, .window = {2, 2}, .dropout_p = 1, .with_lse = false}), 1);
  bits_of(trial);
  for (const double x : values_of(trial, op())) EXPECT_EQ(x, 0);
}

TEST_P(AttentionFacts, GradientsThatAreNotWantedChangeNothingElse) {
  if (!is_backward()) return;
  AttentionCase c{.heads = 4, .kv_heads = 2, .queries = 12, .keys = 12, .dim = 5, .value_dim = 3, .window = {3, 2}};
  c.bias_rank = 4, c.sinks = true, c.global_tokens = 2;
  AttentionTrial all(taken(c), 1);
  bits_of(all);
  TensorView AttentionGradients::* const members[] = {&AttentionGradients::d_q, &AttentionGradients::d_k, &AttentionGradients::d_v,
                                                      &AttentionGradients::d_bias, &AttentionGradients::d_sinks};
  for (std::size_t wanted = 0; wanted < std::size(members); ++wanted) {
    AttentionTrial some(taken(c), 1);
    some.give_results_of_forward(some.expected(Op::attention));
    const std::vector<Tensor*> outputs = some.outputs(op());
    for (Tensor* t : outputs) t->watch();
    AttentionGradients gradients;
    gradients.*members[wanted] = some.gradients().*members[wanted];
    ASSERT_EQ(window_attention_backward(some.inputs(), some.out.view(), some.lse.view(), some.d_out.view(), some.d_lse.view(), gradients,
                                        options())
                  .message(),
              "");
    for (std::size_t n = 0; n < outputs.size(); ++n) {
      if (n == wanted) {
        EXPECT_TRUE(outputs[n]->bits() == all.outputs(op())[n]->bits()) << n;
      } else {
        for (const double x : outputs[n]->values()) EXPECT_TRUE(std::isnan(x)) << "written to, unasked: " << n;
      }
    }
  }
}

TEST_P(AttentionFacts, EveryExecutorGivesTheSameBits) {
  for (const AttentionCase& c : attention_scenes(is_reference(row()))) {
    AttentionTrial trial(taken(c), 1);
    const std::vector<std::byte> serial = bits_of(trial);
    const Executor executors[] = {{}, thread_executor(3), one_by_one_backwards(), a_new_thread_each_time()};
    for (std::size_t n = 0; n < std::size(executors); ++n) {
      for (Tensor* t : trial.outputs(op())) t->blank();
      ASSERT_TRUE(bits_of(trial, executors[n]) == serial) << "executor " << n << ", " << text(c);
    }
  }
}

// One head, and a window so wide that no key belongs to some of the queries alone.
TEST_P(AttentionFacts, WideWindowsAreWorkForSeveralThreads) {
  if (is_reference(row())) return;  // it has no threads
  for (const Window& window : {Window{kUnbounded, kUnbounded}, Window{kUnbounded, 0}, Window{350, 120}}) {
    AttentionTrial trial(taken({.heads = 2, .queries = 700, .keys = 700, .dim = 8, .value_dim = 8, .window = window}), 1);
    trial.give_results_of_forward(zeros_of(trial.c));  // the same bits are asked for, not the right ones
    std::vector<std::byte> serial;
    for (const Executor& executor : {Executor{}, thread_executor(3), one_by_one_backwards()}) {
      for (Tensor* t : trial.outputs(op())) t->blank();
      RunStats stats;
      RunOptions all = options();
      all.executor = executor, all.stats = &stats;
      ASSERT_EQ(trial.run(op(), all).message(), "") << text(trial.c);
      EXPECT_GE(stats.work_items, 4) << text(trial.c);
      if (serial.empty()) serial = trial.bits(op());
      EXPECT_TRUE(trial.bits(op()) == serial) << text(trial.c);
    }
  }
}

TEST_P(AttentionFacts, OffsetsSidesAndDilationsAtTheFarEndOfTheIntegers) {
  for (const index_t far : {index_t{1} << 33, (index_t{1} << 60) - 1, index_t{1} << 60}) {
    AttentionCase c{.heads = 2, .queries = 6, .keys = 7, .dim = 3, .value_dim = 2, .window = {2, 3}};
    std::vector<AttentionCase> all(6, c);
    all[0].window.query_offset = far, all[1].window.query_offset = -far, all[2].window.dilation = {far, 1};
    all[3].window.left = far, all[4].window.right = far, all[5].window = {far, far, {2, far}, -1};
    for (AttentionCase& one : all) {
      for (const index_t global_tokens : {index_t{0}, index_t{2}, far}) {
        one.global_tokens = global_tokens;
        AttentionTrial trial(taken(one), 1);
        EXPECT_TRUE(trial.check(op(), options()));
      }
    }
  }
}

WINDOW_MATMUL_TEST_EACH_ATTENTION(AttentionFacts);

}  // namespace
}  // namespace window_matmul
