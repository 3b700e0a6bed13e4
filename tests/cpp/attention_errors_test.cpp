// tests/cpp/attention_errors_test.cpp: what fused attention refuses, by argument: the message names it, what it got and what it needs;
// nothing is written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "attention_trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

constexpr index_t kMax = std::numeric_limits<index_t>::max(), kMin = std::numeric_limits<index_t>::min();

const AttentionCase& right_case() {
  static const AttentionCase right = [] {
    AttentionCase c{.batch = 2, .heads = 4, .kv_heads = 2, .queries = 5, .keys = 6, .dim = 3, .value_dim = 7, .window = {2, 1}};
    c.bias_rank = 4, c.sinks = true, c.key_mask = true;
    return c;
  }();
  return right;
}

const AttentionCase& packed_case() {
  static const AttentionCase packed = [] {
    AttentionCase c = right_case();
    c.batch = 1, c.cu_q = {0, 2, 5}, c.cu_k = {0, 3, 6};
    return c;
  }();
  return packed;
}

// A right call, to be made wrong in one place.
struct AttentionCall {
  explicit AttentionCall(Op op_, const AttentionCase& c = right_case()) : op(op_), trial(c, 1) {
    in = trial.inputs(), out = trial.out.view(), lse = trial.lse.view(), d_out = trial.d_out.view(), d_lse = trial.d_lse.view();
    gradients = trial.gradients();
    trial.give_results_of_forward(trial.expected(Op::attention));
  }

  Op op;
  AttentionTrial trial;
  AttentionInputs in;
  TensorView out, lse, d_out, d_lse;
  AttentionGradients gradients;
  RunOptions options{};

  Status run() {
    return op == Op::attention ? window_attention(in, out, lse, options)
                               : window_attention_backward(in, out, lse, d_out, d_lse, gradients, options);
  }
  bool is_backward() const { return op == Op::attention_backward; }

  using Named = std::pair<std::string, TensorView*>;
  std::vector<Named> inputs() {
    std::vector<Named> all = {{"q", &in.q}, {"k", &in.k}, {"v", &in.v}, {"bias", &in.bias}, {"sinks", &in.sinks}};
    if (is_backward()) all.insert(all.end(), {{"out", &out}, {"lse", &lse}, {"d_out", &d_out}, {"d_lse", &d_lse}});
    return all;
  }
  std::vector<Named> outputs() {
    if (!is_backward()) return {{"out", &out}, {"lse", &lse}};
    return {{"d_q", &gradients.d_q},
            {"d_k", &gradients.d_k},
            {"d_v", &gradients.d_v},
            {"d_bias", &gradients.d_bias},
            {"d_sinks", &gradients.d_sinks}};
  }
  std::vector<Named> tensors() {
    std::vector<Named> all = inputs();
    for (const Named& output : outputs()) all.push_back(output);
    return all;
  }
};

class AttentionErrors : public testing::TestWithParam<Op> {
 protected:
  using Spoil = std::function<void(AttentionCall&)>;
  static void expect_refusal(const std::string& words, const Spoil& spoil, const AttentionCase& c = right_case()) {
    AttentionCall call(GetParam(), c);
    const std::vector<std::byte> before = call.trial.bits(GetParam());
    spoil(call);
    EXPECT_TRUE(refuses(GetParam(), call.run(), words));
    EXPECT_TRUE(call.trial.bits(GetParam()) == before) << words << ": an output was written to";
  }

  // Spoils each of the tensors that `list` names in turn; the message starts with its name.
  static void expect_each_refused(std::vector<AttentionCall::Named> (AttentionCall::*list)(), const std::string& words,
                                  const std::function<void(TensorView&)>& spoil) {
    AttentionCall names(GetParam());
    for (std::size_t n = 0; n < (names.*list)().size(); ++n)
      expect_refusal(": " + (names.*list)()[n].first + " ... " + words, [&](AttentionCall& call) { spoil(*(call.*list)()[n].second); });
  }
};

TEST_P(AttentionErrors, TheCallsAreRightBeforeTheyAreSpoilt) {
  for (const AttentionCase& c : {right_case(), packed_case()}) {
    AttentionCall call(GetParam(), c);
    EXPECT_EQ(call.run().message(), "");
    EXPECT_TRUE(call.trial.check(GetParam(), {}));
  }
}

TEST_P(AttentionErrors, Rank) {
  for (const int rank : {-1, 0, 1, 5, 17, 1000})
    expect_each_refused(&AttentionCall::tensors, "need", [=](TensorView& t) { t.rank = t.rank == rank ? 7 : rank; });
}

TEST_P(AttentionErrors, DType) {
  AttentionCall names(GetParam());
  for (std::size_t n = 1; n < names.tensors().size(); ++n)
    expect_refusal(": " + names.tensors()[n].first + " is float16 ... float32",
                   [=](AttentionCall& call) { call.tensors()[n].second->dtype = DType::f16; });
  expect_refusal(": k is float32 ... the dtype of q, float16", [](AttentionCall& call) { call.in.q.dtype = DType::f16; });
}

TEST_P(AttentionErrors, DTypeOfWideOutputs) {
  AttentionCase c = right_case();
  c.dtype = DType::bf16, c.wide_out = true;
  expect_refusal(": out is float64 ... the dtype of q, bfloat16", [](AttentionCall& call) { call.out.dtype = DType::f64; }, c);
  if (GetParam() == Op::attention) return;
  expect_refusal(": d_out is bfloat16 ... the dtype of out, float32", [](AttentionCall& call) { call.d_out.dtype = DType::bf16; }, c);
  expect_refusal(": lse has 4 dims ... 3, (B, H, Lq)", [](AttentionCall& call) { call.lse.rank = 4; }, c);
}

TEST_P(AttentionErrors, DTypeOfDoubles) {
  const auto spoil = [](AttentionCall& call) {
    for (const auto& [name, t] : call.tensors()) t->dtype = DType::f64;
  };
  const auto refuse = [&](const std::string& words, const Spoil& change) {
    AttentionCase c = right_case();
    c.dtype = DType::f64;
    expect_refusal(words, [&](AttentionCall& call) { spoil(call), change(call); }, c);
  };
  refuse(": lse is float32 ... needs float64 for q of float64", [](AttentionCall& c) { c.lse.dtype = DType::f32; });
  refuse(": bias is bfloat16 ... float32 or the dtype of q, float64", [](AttentionCall& c) { c.in.bias.dtype = DType::bf16; });
  refuse(": sinks is float16 ... float32 or the dtype of q, float64", [](AttentionCall& c) { c.in.sinks.dtype = DType::f16; });
}

TEST_P(AttentionErrors, EachSizeOfEachTensor) {
  AttentionCall names(GetParam());
  for (std::size_t n = 0; n < names.tensors().size(); ++n)
    for (int dim = 0; dim < names.tensors()[n].second->rank; ++dim)
      for (const index_t by : {-1, 1}) {
        const std::string name = names.tensors()[n].first;
        // By these the others are measured, and found wrong. Heads that do not group: below.
        if (name == "q" || (name == "k" && (dim == 1 || dim == 2)) || (name == "v" && dim == 3)) continue;
        expect_refusal(": " + name + " ( ... need", [=](AttentionCall& call) { call.tensors()[n].second->shape[dim] += by; });
      }
}

TEST_P(AttentionErrors, HeadsThatDoNotGroup) {
  for (const index_t heads : {0, 3, 8})
    expect_refusal("k has " + std::to_string(heads) + " heads ... q's 4 heads ... multiple",
                   [=](AttentionCall& c) { c.in.k.shape[1] = c.in.v.shape[1] = heads; });
}

TEST_P(AttentionErrors, NegativeSizes) {
  for (const index_t size : {index_t{-1}, kMin})
    expect_refusal(": q (2, 4, ... negative", [=](AttentionCall& c) { c.in.q.shape[2] = size; });
}

TEST_P(AttentionErrors, TooLarge) {
  expect_each_refused(&AttentionCall::tensors, "too large", [](TensorView& t) { t.stride[0] = kMax / 2; });
  expect_each_refused(&AttentionCall::tensors, "too large", [](TensorView& t) { t.stride[0] = kMin; });
  expect_refusal("key_mask ... too large", [](AttentionCall& c) { c.in.key_mask.key_stride = kMax; });
  expect_refusal("global_mask ... too large", [](AttentionCall& c) {
    c.in.global_mask = c.in.key_mask;
    c.in.global_mask.batch_stride = kMin;
  });
}

TEST_P(AttentionErrors, NoMemory) {
  std::vector<std::string> needed = {"q", "k", "v", "out"};
  if (GetParam() == Op::attention_backward) needed.insert(needed.end(), {"lse", "d_out"});
  for (const std::string& name : needed)
    expect_refusal(": " + name + " ( ... has no memory", [&](AttentionCall& call) {
      for (const auto& [other, t] : call.tensors())
        if (other == name) t->data = nullptr;
    });
}

TEST_P(AttentionErrors, OutputsThatOverlapThemselves) {
  expect_each_refused(&AttentionCall::outputs, "overlaps itself ... dim 0 ... stride 0", [](TensorView& t) { t.stride[0] = 0; });
}

TEST_P(AttentionErrors, Window) {
  expect_refusal("window: left is -1 ... at least 0", [](AttentionCall& c) { c.in.window.left = -1; });
  expect_refusal("window: right is " + std::to_string(kMin) + " ... at least 0", [](AttentionCall& c) { c.in.window.right = kMin; });
  expect_refusal("dilation is 0 ... from 1", [](AttentionCall& c) { c.in.window.dilation = {1, 2, 0, 1}; });
  expect_refusal("dilation is " + std::to_string(kMax) + " ... to 2^60", [](AttentionCall& c) { c.in.window.dilation = {kMax}; });
  expect_refusal("dilation has 3 values ... each of the 4 heads", [](AttentionCall& c) { c.in.window.dilation = {1, 2, 3}; });
  expect_refusal("query_offset is " + std::to_string(kMin) + " ... 2^60", [](AttentionCall& c) { c.in.window.query_offset = kMin; });
}

TEST_P(AttentionErrors, Numbers) {
  for (const double bad : {kNaN, kInf, -kInf}) {
    expect_refusal("scale is ... finite", [=](AttentionCall& c) { c.in.scale = bad; });
    expect_refusal("softcap is ... finite and at least 0", [=](AttentionCall& c) { c.in.softcap = bad; });
    expect_refusal("dropout_p is ... from 0 to 1", [=](AttentionCall& c) { c.in.dropout_p = bad; });
  }
  expect_refusal("softcap is -1", [](AttentionCall& c) { c.in.softcap = -1; });
  expect_refusal("dropout_p is -0.25", [](AttentionCall& c) { c.in.dropout_p = -0.25; });
  expect_refusal("dropout_p is 1.25", [](AttentionCall& c) { c.in.dropout_p = 1.25; });
  expect_refusal("scale is not given ... D is 0", [](AttentionCall& c) { c.in.q.shape[3] = c.in.k.shape[3] = 0; });
}

TEST_P(AttentionErrors, GlobalTokens) {
  expect_refusal("global_tokens is -1 ... at least 0", [](AttentionCall& c) { c.in.global_tokens = -1; });
  expect_refusal("global_tokens is 3 ... 0 beside global_mask",
                 [](AttentionCall& c) { c.in.global_tokens = 3, c.in.global_mask = c.in.key_mask; });
}

TEST_P(AttentionErrors, PackedSequences) {
  const auto refuse = [](const std::string& words, const Spoil& spoil) { expect_refusal(words, spoil, packed_case()); };
  refuse("cu_q has 3 values ... cu_k has 0", [](AttentionCall& c) { c.in.cu_k = {}; });
  refuse("cu_q has 0 values ... cu_k has 3", [](AttentionCall& c) { c.in.cu_q = {}; });
  refuse("cu_q has 3 values ... cu_k has 2", [](AttentionCall& c) { c.in.cu_k = {0, 6}; });
  refuse("cu_q begins with -1 ... with at least 0", [](AttentionCall& c) { c.in.cu_q[0] = -1; });
  refuse("cu_k begins with " + std::to_string(kMin) + " ... with at least 0", [](AttentionCall& c) { c.in.cu_k[0] = kMin; });
  refuse("cu_q has 5 after 6 ... non-decreasing", [](AttentionCall& c) { c.in.cu_q[1] = 6; });
  refuse("cu_k has -2 after 0 ... non-decreasing", [](AttentionCall& c) { c.in.cu_k[1] = -2; });
  refuse("cu_q ends with 6 ... at most the rows of q, 5", [](AttentionCall& c) { c.in.cu_q[2] = 6; });
  refuse("cu_k ends with 7 ... at most the rows of k, 6", [](AttentionCall& c) { c.in.cu_k[2] = 7; });
  refuse("cu_q ends with 7 ... 5", [](AttentionCall& c) { c.in.cu_q = c.in.cu_k = {7}; });
  refuse("query_offset is 0 ... left out", [](AttentionCall& c) { c.in.window.query_offset = 0; });
  expect_refusal("q (2, 4, 5, 3) ... dim 0 needs to be 1", [](AttentionCall& c) { c.in.cu_q = {0, 5}, c.in.cu_k = {0, 6}; });
}

TEST_P(AttentionErrors, LengthsAndOffsetsOfEntries) {
  expect_refusal("key_lengths has 1 values ... each of the 2 entries", [](AttentionCall& c) { c.in.key_lengths = {3}; });
  expect_refusal("key_lengths[1] is 7 ... from 0 to Lk, 6", [](AttentionCall& c) { c.in.key_lengths = {6, 7}; });
  expect_refusal("key_lengths[0] is -1 ... from 0 to Lk, 6", [](AttentionCall& c) { c.in.key_lengths = {-1, kMin}; });
  expect_refusal("query_offset has 3 values ... each of the 2 entries", [](AttentionCall& c) { c.in.query_offsets = {1, 2, 3}; });
  for (const index_t bad : {kMin, kMax, kUnbounded + 1, -kUnbounded - 1})
    expect_refusal("query_offset[1] is " + std::to_string(bad) + " ... 2^60", [=](AttentionCall& c) { c.in.query_offsets = {0, bad}; });
  expect_refusal("query_offset is 4 ... beside one for each", [](AttentionCall& c) {
    c.in.window.query_offset = 4;
    c.in.query_offsets = {1, 2};
  });
  expect_refusal("key_lengths is given ... left out ... cu_q", [](AttentionCall& c) { c.in.key_lengths = {3}; }, packed_case());
  expect_refusal("query_offset is given ... left out ... cu_q", [](AttentionCall& c) { c.in.query_offsets = {3}; }, packed_case());
}

TEST_P(AttentionErrors, BiasAndSinks) {
  expect_refusal("window: left is unbounded ... bias", [](AttentionCall& c) { c.in.window.left = kUnbounded; });
  expect_refusal("window: right is unbounded ... bias", [](AttentionCall& c) { c.in.window.right = kMax; });
  expect_refusal("bias (2, 4, 5, 4) ... W = left + 1 + right ... (2, 4, 5, 5)", [](AttentionCall& c) { c.in.window.left = 3; });
  expect_refusal("bias has 3 dims ... (H, W) ... (B, H, Lq, W)", [](AttentionCall& c) { c.in.bias.rank = 3; });
  AttentionCase per_slot = right_case();
  per_slot.bias_rank = 2;
  expect_refusal("bias (4, 3) ... (H, W) ... (4, 4)", [](AttentionCall& c) { c.in.bias.shape[1] = 3; }, per_slot);
  expect_refusal("bias (3, 4) ... (H, W) ... (4, 4)", [](AttentionCall& c) { c.in.bias.shape[0] = 3; }, per_slot);
}

TEST_P(AttentionErrors, GradientsOfWhatIsNotGiven) {
  if (GetParam() == Op::attention) return;
  expect_refusal("d_bias is given ... no bias", [](AttentionCall& c) { c.in.bias = {}; });
  expect_refusal("d_sinks is given ... no sinks", [](AttentionCall& c) { c.in.sinks = {}; });
}

TEST_P(AttentionErrors, UnknownBackendListsTheRows) {
  AttentionCall call(GetParam());
  call.options.backend = "cpu.abacus";
  const Status status = call.run();
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  for (const Kernel& kernel : kernel_table())
    EXPECT_NE(status.message().find(std::string("\n  ") + kernel.name + ": "), std::string::npos) << status.message();
}

INSTANTIATE_TEST_SUITE_P(Op, AttentionErrors, testing::Values(Op::attention, Op::attention_backward),
                         [](const auto& op) { return std::string(name_of(op.param)); });

}  // namespace
}  // namespace window_matmul
