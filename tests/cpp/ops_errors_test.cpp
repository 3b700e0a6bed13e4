// tests/cpp/ops_errors_test.cpp: what each operator refuses, by argument: the message names it, what it got and what it needs; nothing is
// written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "trial.hpp"
#include "window_matmul/backends.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

constexpr index_t kMax = std::numeric_limits<index_t>::max(), kMin = std::numeric_limits<index_t>::min();
constexpr index_t kRows = 4, kCols = 5, kDim = 3, kWidth = 6;  // of the window (2, 3)

using Words = std::vector<std::string>;

// A right call of one operator, to be made wrong in one place. The tensors have two heads.
struct Call {
  explicit Call(Op op_)
      : op(op_), trial(op, {.rows = kRows, .cols = kCols, .window = {2, 3}, .dim = kDim, .lead_x = {2}, .lead_y = {2}}, 1) {
    x = trial.x.view(), y = trial.y.view(), out = trial.out.view();
  }

  Op op;
  Trial trial;
  TensorView x, y, out;
  Window window{2, 3};
  index_t num_keys = kCols;
  double fill = 0;
  const char* backend = nullptr;

  Words names() const {  // of x, y, out
    switch (op) {
      case Op::band_out:
        return {"q", "k", "a"};
      case Op::band_in:
        return {"a", "v", "o"};
      case Op::band_in_transposed:
        return {"a", "x", "o"};
      case Op::softmax:
        return {"a", "", "p"};
      case Op::softmax_backward:
        return {"g", "p", "d"};
      case Op::attention:
      case Op::attention_backward:
        break;  // attention_*.hpp
    }
    return {};
  }
  std::vector<TensorView*> tensors() { return op == Op::softmax ? std::vector{&x, &out} : std::vector{&x, &y, &out}; }
  std::string name_of_tensor(const TensorView* t) const { return names()[t == &x ? 0 : t == &y ? 1 : 2]; }

  Status run() {
    const RunOptions options{.backend = backend};
    switch (op) {
      case Op::band_out:
        return band_out(window, x, y, out, fill, options);
      case Op::band_in:
        return band_in(window, x, y, out, options);
      case Op::band_in_transposed:
        return band_in_transposed(window, x, y, out, options);
      case Op::softmax:
        return window_softmax(window, num_keys, x, out, options);
      case Op::softmax_backward:
        return window_softmax_backward(window, num_keys, x, y, out, options);
      case Op::attention:
      case Op::attention_backward:
        break;  // attention_*.hpp
    }
    return {};
  }
};

class OpsErrors : public testing::TestWithParam<Op> {
 protected:
  // Makes a right call wrong by `spoil` and expects a refusal with these words, which leaves the output alone.
  static void expect_refusal(const std::string& words, const std::function<void(Call&)>& spoil) {
    Call call(GetParam());
    const std::vector<std::byte> before = call.trial.out.bits();
    spoil(call);
    EXPECT_TRUE(refuses(GetParam(), call.run(), words));
    EXPECT_TRUE(call.trial.out.bits() == before && call.trial.out.damage().empty()) << words << ": the output was written to";
  }

  // Spoils each tensor of the call in turn; the message starts with its name.
  static void expect_each_tensor_refused(const std::string& words, const std::function<void(TensorView&)>& spoil) {
    Call names(GetParam());
    const std::vector<TensorView*> tensors = names.tensors();
    for (std::size_t n = 0; n < tensors.size(); ++n)
      expect_refusal(": " + names.name_of_tensor(tensors[n]) + " ... " + words, [&](Call& call) { spoil(*call.tensors()[n]); });
  }

  static Call right_call() { return Call(GetParam()); }
};

TEST_P(OpsErrors, TheCallIsRightBeforeItIsSpoilt) {
  Call call(GetParam());
  EXPECT_EQ(call.run().message(), "");
  EXPECT_TRUE(call.trial.check({}));
}

TEST_P(OpsErrors, Rank) {
  for (const int rank : {-1, 0, 1, 17, 1000}) {
    expect_each_tensor_refused("has " + std::to_string(rank) + " dims ... needs 2 to 16", [=](TensorView& t) { t.rank = rank; });
  }
}

TEST_P(OpsErrors, DTypesDiffer) {
  const Words names = right_call().names();
  const auto says = [&](const std::string& name) { return ": " + name + " is float16 ... dtype of " + names[0] + ", float32"; };
  if (GetParam() != Op::softmax) expect_refusal(says(names[1]), [](Call& c) { c.y.dtype = DType::f16; });
  expect_refusal(says(names[2]), [](Call& c) { c.out.dtype = DType::f16; });
  expect_refusal("is float32 ... dtype of " + names[0] + ", float64", [](Call& c) { c.x.dtype = DType::f64; });
}

TEST_P(OpsErrors, NoMemory) {
  expect_each_tensor_refused("(2, ... no memory ... null", [](TensorView& t) { t.data = nullptr; });
}

TEST_P(OpsErrors, NegativeSizes) {
  for (const int dim : {0, 1, 2}) {
    expect_each_tensor_refused("-7 ... negative", [=](TensorView& t) { t.shape[dim] = -7; });
    expect_each_tensor_refused(std::to_string(kMin) + " ... negative", [=](TensorView& t) { t.shape[dim] = kMin; });
  }
}

TEST_P(OpsErrors, TooLarge) {
  for (const index_t size : {kMax, kUnbounded + 1, kUnbounded}) {
    expect_each_tensor_refused(std::to_string(size) + " ... too large ... 64 bits", [=](TensorView& t) { t.shape[0] = size; });
  }
  expect_each_tensor_refused("4294967296, 4294967296 ... too large", [](TensorView& t) { t.shape[0] = t.shape[1] = index_t{1} << 32; });
  for (const index_t stride : {kMax, kMin, kMin + 1, kMax / 2, -kMax / 2}) {
    expect_each_tensor_refused("(2, ... too large", [=](TensorView& t) { t.stride[0] = stride; });
  }
  expect_each_tensor_refused("too large", [](TensorView& t) { t.stride[1] = t.stride[2] = index_t{1} << 59; });
}

TEST_P(OpsErrors, Sides) {
  for (const index_t side : {index_t{-1}, kMin}) {
    expect_refusal("left is " + std::to_string(side) + " ... at least 0", [=](Call& c) { c.window.left = side; });
    expect_refusal("right is " + std::to_string(side) + " ... at least 0", [=](Call& c) { c.window.right = side; });
  }
  for (const index_t side : {kMax, kUnbounded}) {
    expect_refusal("left is " + std::to_string(side) + " ... at most 2^60", [=](Call& c) { c.window.left = side; });
    expect_refusal("right is " + std::to_string(side) + " ... at most 2^60", [=](Call& c) { c.window.right = side; });
    expect_refusal("left is " + std::to_string(side) + " ... right is " + std::to_string(side),
                   [=](Call& c) { c.window.left = c.window.right = side; });
  }
}

TEST_P(OpsErrors, Dilation) {
  for (const index_t dilation : {index_t{0}, index_t{-1}, kMin, kUnbounded + 1, kMax}) {
    expect_refusal("dilation is " + std::to_string(dilation) + " ... from 1 to 2^60", [=](Call& c) { c.window.dilation = {dilation}; });
    expect_refusal("dilation is " + std::to_string(dilation), [=](Call& c) { c.window.dilation = {1, dilation}; });
  }
  expect_refusal("dilation has 3 values ... one for each of the 2 heads", [](Call& c) { c.window.dilation = {1, 2, 3}; });
  expect_refusal("dilation has 2 values ... one for each of the 1 heads", [](Call& c) {
    for (TensorView* t : c.tensors()) t->shape[0] = 1;
    c.window.dilation = {1, 2};
  });
}

TEST_P(OpsErrors, QueryOffset) {
  for (const index_t offset : {kMin, kMax, kUnbounded + 1, -kUnbounded - 1}) {
    expect_refusal("query_offset is " + std::to_string(offset) + " ... -2^60 and 2^60", [=](Call& c) { c.window.query_offset = offset; });
  }
}

// Every dim of every matrix but those that define Lq, Lk and N.
TEST_P(OpsErrors, ShapesThatDoNotFit) {
  const Words n = right_call().names();
  const auto refuse = [&](TensorView Call::* tensor, int dim_from_end, const std::string& words) {
    expect_refusal(words, [=](Call& c) { (c.*tensor).shape[(c.*tensor).rank - dim_from_end] = 2; });
  };
  const std::string width = "needs to be " + std::to_string(kWidth) + ", left + 1 + right";
  if (GetParam() == Op::band_out) {
    refuse(&Call::y, 2, ": k (2, 2, 5): dim -2 needs to be 3 ... last dim of q");
    refuse(&Call::out, 1, ": a (2, 4, 2): dim -1 ... " + width);
    refuse(&Call::out, 2, ": a (2, 2, 6): dim -2 needs to be 4 ... rows of q");
  } else if (GetParam() == Op::band_in) {
    refuse(&Call::x, 1, ": a (2, 4, 2): dim -1 ... " + width);
    refuse(&Call::out, 1, ": o (2, 4, 2): dim -1 needs to be 3 ... last dim of v");
    refuse(&Call::out, 2, ": o (2, 2, 3): dim -2 needs to be 4 ... rows of a");
  } else if (GetParam() == Op::band_in_transposed) {
    refuse(&Call::x, 1, ": a (2, 4, 2): dim -1 ... " + width);
    refuse(&Call::y, 2, ": x (2, 2, 3): dim -2 needs to be 4 ... rows of a");
    refuse(&Call::out, 1, ": o (2, 5, 2): dim -1 needs to be 3 ... last dim of x");
  } else {
    refuse(&Call::x, 1, ": " + n[0] + " (2, 4, 2): dim -1 ... " + width);
    refuse(&Call::out, 1, ": " + n[2] + " (2, 4, 2): dim -1 ... " + width);
    refuse(&Call::out, 2, ": " + n[2] + " (2, 2, 6): dim -2 needs to be 4 ... rows of " + n[0]);
  }
  if (GetParam() == Op::softmax_backward) {
    refuse(&Call::y, 1, ": p (2, 4, 2): dim -1 ... " + width);
    refuse(&Call::y, 2, ": p (2, 2, 6): dim -2 needs to be 4 ... rows of g");
  }
}

TEST_P(OpsErrors, LeadingDimsThatDoNotBroadcast) {
  const Words n = right_call().names();
  expect_refusal(": " + n[0] + " (3, ... broadcast ... " + n[2] + " (2, ", [](Call& c) { c.x.shape[0] = 3; });
  if (GetParam() != Op::softmax)
    expect_refusal(": " + n[1] + " (3, ... broadcast ... " + n[2] + " (2, ", [](Call& c) { c.y.shape[0] = 3; });
  expect_refusal(n[2] + " (3, ", [](Call& c) { c.out.shape[0] = 3; });
  expect_refusal(n[2] + " (1, ", [](Call& c) { c.out.shape[0] = 1; });
  expect_refusal(n[2] + " (2, ... dim 0 needs to be 1", [](Call& c) { c.x.shape[0] = c.y.shape[0] = 1; });
  expect_refusal(n[0] + " (1, 2, ", [](Call& c) {  // more leading dims than the output
    std::copy_backward(c.x.shape, c.x.shape + 3, c.x.shape + 4), std::copy_backward(c.x.stride, c.x.stride + 3, c.x.stride + 4);
    c.x.shape[0] = 1, c.x.rank = 4;
  });
}

TEST_P(OpsErrors, OutputThatOverlapsItself) {
  for (const int dim : {0, 1, 2}) {
    const std::string output = right_call().names()[2];
    expect_refusal(": " + output + " overlaps itself ... dim " + std::to_string(dim) + " ... stride 0",
                   [=](Call& c) { c.out.stride[dim] = 0; });
  }
}

TEST_P(OpsErrors, UnknownBackendListsTheRows) {
  Words words = {"backend", "'cpu.abacus'"};
  for (const Kernel& kernel : kernel_table()) words.push_back(std::string("\n  ") + kernel.name + ": ");
  Call call(GetParam());
  call.backend = "cpu.abacus";
  const Status status = call.run();
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  for (const std::string& word : words)
    EXPECT_NE(status.message().find(word), std::string::npos) << "'" << word << "' in: " << status.message();
}

TEST_P(OpsErrors, ZeroSizesAreFineWithoutMemory) {
  for (const Shape& lead : {Shape{2}, Shape{0}, Shape{0, 2}, Shape{2, 0}}) {
    for (int zero = 0; zero < 8; ++zero) {
      const Case c{
          .rows = zero & 1 ? 0 : 4, .cols = zero & 2 ? 0 : 5, .window = {2, 3}, .dim = zero & 4 ? 0 : 3, .lead_x = lead, .lead_y = lead};
      for (const Kernel& kernel : kernel_table()) {
        if (std::string why_not; !kernel.supports({}, this_device(), &why_not)) continue;
        Call call(GetParam());
        Trial trial(GetParam(), c, 1);
        call.x = trial.x.view(), call.y = trial.y.view(), call.out = trial.out.view(), call.num_keys = c.cols, call.backend = kernel.name;
        if (trial.x.size() == 0) call.x.data = nullptr;
        if (trial.y.size() == 0) call.y.data = nullptr;
        if (trial.out.size() == 0) call.out.data = nullptr;
        EXPECT_EQ(call.run().message(), "") << kernel.name << " " << text(c);
        EXPECT_TRUE(close(trial.out, trial.expected())) << kernel.name << " " << text(c);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Op, OpsErrors, testing::ValuesIn(kOps), [](const auto& op) { return std::string(name_of(op.param)); });

TEST(OpsErrors, FillIsNoNaN) {
  Call call(Op::band_out);
  call.fill = kNaN;
  EXPECT_EQ(call.run().message(), "band_out: fill is NaN; it needs to be a number or an infinity");
}

TEST(OpsErrors, NumKeys) {
  for (const Op op : {Op::softmax, Op::softmax_backward}) {
    for (const index_t num_keys : {index_t{-1}, kMin, kUnbounded + 1, kMax}) {
      Call call(op);
      call.num_keys = num_keys;
      EXPECT_EQ(call.run().message(),
                std::string(name_of(op)) + ": num_keys is " + std::to_string(num_keys) + "; it needs to be from 0 to 2^60");
    }
  }
}

}  // namespace
}  // namespace window_matmul
