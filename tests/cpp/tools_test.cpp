// tests/cpp/tools_test.cpp: the tools of these tests see what they are there to see.
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "cases.hpp"
#include "compare.hpp"
#include "trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

std::byte* byte_of(const Tensor& t, index_t from_start) { return static_cast<std::byte*>(t.view().data) + from_start; }

TEST(Canaries, NameTheByteThatChanged) {
  Tensor out(DType::f32, {2, 3}, Role::output, {.gap = 1});  // rows at bytes 0..11 and 16..27
  out.watch();
  for (index_t i = 0; i < out.size(); ++i) out.set(i, 1);
  EXPECT_EQ(out.damage(), "") << "its elements may change";
  const auto damage_at = [&](index_t byte) {
    const std::byte before = *byte_of(out, byte);
    *byte_of(out, byte) = std::byte{0};
    const std::string damage = out.damage();
    *byte_of(out, byte) = before;
    return damage;
  };
  EXPECT_NE(damage_at(-1).find("1 bytes before its first byte"), std::string::npos) << damage_at(-1);
  EXPECT_NE(damage_at(-200).find("200 bytes before its first byte"), std::string::npos);
  EXPECT_NE(damage_at(28).find("byte 0 after its last byte"), std::string::npos) << damage_at(28);
  EXPECT_NE(damage_at(13).find("byte 13 from its lowest address, in a gap"), std::string::npos) << damage_at(13);
  EXPECT_EQ(damage_at(16), "");
}

TEST(Canaries, AnInputMayNotChangeAtAll) {
  Tensor in(DType::f64, {2, 2}, Role::input);
  in.set(3, 5);
  in.watch();
  EXPECT_EQ(in.damage(), "");
  in.set(3, 6);
  EXPECT_NE(in.damage().find("inside"), std::string::npos) << in.damage();
}

TEST(Layouts, PutEveryElementInAPlaceOfItsOwn) {
  Random random(1);
  std::set<std::string> seen;
  for (int n = 0; n < 300; ++n) {
    const Layout layout = any_layout(random, Role::output);
    Tensor t(random.pick(kDTypes), {2, 3, 4, 5}, Role::output, layout);
    for (index_t i = 0; i < t.size(); ++i) t.set(i, static_cast<double>(i));
    for (index_t i = 0; i < t.size(); ++i) ASSERT_EQ(t[i], static_cast<double>(i)) << text(layout);
    seen.insert(text(layout));
  }
  EXPECT_GT(seen.size(), 50u);
}

TEST(Elements, HalvesAreWhatTheirFormatsSay) {
  EXPECT_EQ(half_from_bits(0x3C00), 1);
  EXPECT_EQ(half_from_bits(0xC000), -2);
  EXPECT_EQ(half_from_bits(0x7BFF), 65504);
  EXPECT_EQ(half_from_bits(0x0001), 0x1p-24);
  EXPECT_EQ(half_from_bits(0x0400), 0x1p-14);
  EXPECT_EQ(half_from_bits(0xFC00), -kInf);
  EXPECT_TRUE(std::isnan(half_from_bits(0x7C01)));
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const double x = half_from_bits(static_cast<std::uint16_t>(bits));
    ASSERT_TRUE(std::isnan(x) || half_to_bits(x) == bits) << x;
  }
  EXPECT_EQ(rounded(DType::f16, 1 + 0x1p-11), 1) << "a tie goes to the even one";
  EXPECT_EQ(rounded(DType::f16, 1 + 3 * 0x1p-11), 1 + 0x1p-9);
  EXPECT_EQ(rounded(DType::f16, 65519.9), 65504);
  EXPECT_EQ(rounded(DType::f16, 65520), kInf);
  EXPECT_EQ(rounded(DType::bf16, 1 + 0x1p-8), 1);
  EXPECT_EQ(rounded(DType::bf16, -(1 + 3 * 0x1p-8)), -(1 + 0x1p-6));
  EXPECT_EQ(rounded(DType::bf16, 1e39), kInf);
}

TEST(Compare, AllowsRoundingAndNothingElse) {
  Sum sum;
  for (int n = 0; n < 100; ++n) sum.add(1, 1);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Expected want = sum.in(dtype);
    EXPECT_LE(misfit(100, want), 1);
    EXPECT_LE(misfit(100 * (1 + format_of(dtype).roundoff), want), 1) << name_of(dtype);
    EXPECT_GT(misfit(101, want), 1) << name_of(dtype) << ": a term too many";
    EXPECT_GT(misfit(kNaN, want), 1);
    EXPECT_GT(misfit(kInf, want), 1);
  }
  EXPECT_EQ(misfit(kNaN, {kNaN, kNaN}), 0);
  EXPECT_EQ(misfit(-kInf, {-kInf, kNaN}), 0);
  EXPECT_GT(misfit(1, {kNaN, kNaN}), 1);
  EXPECT_GT(misfit(kInf, {-kInf, kNaN}), 1);
  EXPECT_GT(misfit(1e-30, {0, 0}), 1) << "a sum of nothing is exactly 0";
}

TEST(Compare, ReportsTheWorstElement) {
  Tensor t(DType::f32, {2, 2}, Role::output);
  for (index_t i = 0; i < 4; ++i) t.set(i, 1);
  const testing::AssertionResult result = close(t, {{1, 0}, {1.25, 1}, {9, 1}, {3, 1}});
  EXPECT_FALSE(result);
  EXPECT_EQ(result.message(), std::string("2 of 4 elements are wrong; the worst, at (1, 0), is 1 and should be 9 +- 1"));
}

TEST(Compare, RefusalsNeedTheirWordsWholeAndInOrder) {
  const Status status{StatusCode::invalid_argument, "band_in: v is float16; it needs to be float32, the dtype of a"};
  EXPECT_TRUE(refuses(Op::band_in, status, ": v is float16 ... float32 ... dtype of a"));
  EXPECT_FALSE(refuses(Op::band_in, status, "float32 ... v is float16"));
  EXPECT_FALSE(refuses(Op::band_in, status, "v is float ... dtype of a"));
  EXPECT_FALSE(refuses(Op::band_in, status, "v is float64"));
  EXPECT_FALSE(refuses(Op::band_out, status, "v is float16"));
  EXPECT_FALSE(refuses(Op::band_in, {StatusCode::unsupported, status.message()}, "v is float16"));
}

TEST(Trials, PoisonWhatTheDefinitionDoesNotLookAt) {
  const Case c{.rows = 3, .cols = 3, .window = {1, 1, {}, 1}, .dim = 2};  // query 2 is aligned with key 3: sees key 2 alone
  const Trial trial(Op::band_in, c, 1);
  std::vector<bool> poisoned;
  for (index_t i = 0; i < trial.x.size(); ++i) poisoned.push_back(std::isnan(trial.x[i]));
  EXPECT_EQ(poisoned, (std::vector<bool>{false, false, false, false, false, true, false, true, true}));
  EXPECT_FALSE(std::isnan(trial.y[0]));
  const Trial far(Op::band_in, {.rows = 1, .cols = 3, .window = {0, 0, {}, 1}, .dim = 1}, 1);
  EXPECT_TRUE(std::isnan(far.y[0]) && !std::isnan(far.y[1]) && std::isnan(far.y[2]));
}

TEST(Cases, HoldEveryValueOfEveryList) {
  std::set<index_t> dims, dilations;
  std::set<DType> dtypes;
  std::set<double> fills;
  int per_head = 0, below = 0, beyond = 0, broadcast = 0, repeated = 0;
  for (const Case& c : cases()) {
    dims.insert(c.dim), dtypes.insert(c.dtype), fills.insert(c.fill);
    dilations.insert(c.window.dilation.begin(), c.window.dilation.end());
    per_head += c.window.dilation.size() > 1, below += c.shift()<0, beyond += c.shift()> c.cols;
    broadcast += c.lead_x != c.lead_y, repeated += c.x.repeated || c.y.repeated;
  }
  for (const index_t dim : kDims) EXPECT_TRUE(dims.contains(dim)) << dim;
  for (const index_t dilation : kDilations) EXPECT_TRUE(dilations.contains(dilation)) << dilation;
  for (const double fill : kFills) EXPECT_TRUE(fills.contains(fill)) << fill;
  EXPECT_EQ(dtypes.size(), 4u);
  for (const int count : {per_head, below, beyond, broadcast, repeated}) EXPECT_GT(count, 20);
}

}  // namespace
}  // namespace window_matmul
