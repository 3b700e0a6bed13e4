// tests/cpp/special_values_test.cpp: results that can be written down: the worked example, fills, rows without keys, extreme softmaxes,
// roundings.
#include <gtest/gtest.h>

#include <array>

#include "rows.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

using Rows = std::vector<std::vector<double>>;

Tensor tensor_of(DType dtype, const Rows& rows, const Layout& layout = {}) {
  Tensor t(dtype, {static_cast<index_t>(rows.size()), static_cast<index_t>(rows[0].size())}, Role::input, layout);
  index_t place = 0;
  for (const auto& row : rows) {
    for (const double value : row) t.set(place++, value);
  }
  t.watch();
  return t;
}

Rows rows_of(const Tensor& t) {
  Rows rows(static_cast<std::size_t>(t.shape()[0]));
  for (index_t i = 0; i < t.size(); ++i) rows[static_cast<std::size_t>(i / t.shape()[1])].push_back(t[i]);
  return rows;
}

class SpecialValues : public OnEachRow {
 protected:
  Rows band_out_of(const Window& w, const Tensor& q, const Tensor& k, double fill = 0) {
    Tensor a(q.dtype(), {q.shape()[0], w.left + 1 + w.right}, Role::output);
    EXPECT_EQ(band_out(w, q.view(), k.view(), a.view(), fill, options()).message(), "");
    return rows_of(a);
  }
  Rows band_in_of(const Window& w, const Tensor& a, const Tensor& v) {
    Tensor o(a.dtype(), {a.shape()[0], v.shape()[1]}, Role::output);
    EXPECT_EQ(band_in(w, a.view(), v.view(), o.view(), options()).message(), "");
    return rows_of(o);
  }
  Rows band_in_transposed_of(const Window& w, const Tensor& a, const Tensor& x, index_t num_keys) {
    Tensor o(a.dtype(), {num_keys, x.shape()[1]}, Role::output);
    EXPECT_EQ(band_in_transposed(w, a.view(), x.view(), o.view(), options()).message(), "");
    return rows_of(o);
  }
  bool is_lost(double x) const { return multiplies_pairs() && std::abs(x) < format_of(DType::f32).smallest_normal; }
  Rows softmax_of(const Window& w, index_t num_keys, const Tensor& a) {
    Tensor p(a.dtype(), a.shape(), Role::output);
    EXPECT_EQ(window_softmax(w, num_keys, a.view(), p.view(), options()).message(), "");
    return rows_of(p);
  }
};

const Rows kOneToEight = {{1, 2}, {3, 4}, {5, 6}, {7, 8}};
const Rows kOneToEightTurned = {{1, 3, 5, 7}, {2, 4, 6, 8}};

TEST_P(SpecialValues, WorkedExample) {
  for (const DType dtype : dtypes()) {
    const Tensor q = tensor_of(dtype, kOneToEight), k = tensor_of(dtype, kOneToEightTurned, {.turned = true});
    EXPECT_EQ(band_out_of({1, 1}, q, k), (Rows{{0, 5, 11}, {11, 25, 39}, {39, 61, 83}, {83, 113, 0}}));
    EXPECT_EQ(band_out_of({0, 0}, q, k), (Rows{{5}, {25}, {61}, {113}}));
    EXPECT_EQ(band_out_of({3, 3}, q, k),
              (Rows{{0, 0, 0, 5, 11, 17, 23}, {0, 0, 11, 25, 39, 53, 0}, {0, 17, 39, 61, 83, 0, 0}, {23, 53, 83, 113, 0, 0, 0}}));
    EXPECT_EQ(band_out_of({1, 1, {2}}, q, k), (Rows{{0, 5, 17}, {0, 25, 53}, {17, 61, 0}, {53, 113, 0}}));
    EXPECT_EQ(band_out_of({0, 1, {}, 1}, q, k), (Rows{{11, 17}, {39, 53}, {83, 0}, {0, 0}})) << "query 0 aligned with key 1";
  }
}

TEST_P(SpecialValues, WorkedExampleOfTheSums) {
  const Rows band = {{9, 1, 2}, {3, 4, 5}, {6, 7, 8}, {9, 10, 9}};  // the 9s in the corners have no key
  for (const DType dtype : dtypes()) {
    const Tensor a = tensor_of(dtype, band), v = tensor_of(dtype, kOneToEight);
    // (0 1 2 . .): 1*(1,2) + 2*(3,4);  (3 4 5): 3*(1,2) + 4*(3,4) + 5*(5,6);  ...
    EXPECT_EQ(band_in_of({1, 1}, a, v), (Rows{{7, 10}, {40, 52}, {109, 130}, {115, 134}}));
    EXPECT_EQ(band_in_transposed_of({1, 1}, a, v, 4), (Rows{{10, 14}, {44, 56}, {113, 134}, {110, 128}}));
  }
}

TEST_P(SpecialValues, FillStandsWhereThereIsNoKeyAndNowhereElse) {
  for (const DType dtype : dtypes()) {
    const Tensor q = tensor_of(dtype, kOneToEight), k = tensor_of(dtype, kOneToEightTurned);
    EXPECT_EQ(band_out_of({1, 1}, q, k, -kInf), (Rows{{-kInf, 5, 11}, {11, 25, 39}, {39, 61, 83}, {83, 113, -kInf}}));
    EXPECT_EQ(band_out_of({0, 1, {}, 9}, q, k, -2.5), (Rows(4, {-2.5, -2.5})));
  }
}

TEST_P(SpecialValues, NoDimGivesZerosAndFill) {
  for (const DType dtype : dtypes()) {
    const Tensor q(dtype, {3, 0}, Role::input), k(dtype, {0, 3}, Role::input);
    EXPECT_EQ(band_out_of({0, 1}, q, k, 7), (Rows{{0, 0}, {0, 0}, {0, 7}}));
  }
}

TEST_P(SpecialValues, RowsWithoutKeysGiveZero) {
  for (const DType dtype : dtypes()) {
    const Tensor a = tensor_of(dtype, Rows(4, {kNaN, kNaN, kNaN})), v = tensor_of(dtype, kOneToEight);
    for (const index_t offset : {-100, -5, 5, 100}) {  // the window (1, 1) of no query reaches a key
      EXPECT_EQ(band_in_of({1, 1, {}, offset}, a, v), Rows(4, {0, 0}));
      EXPECT_EQ(band_in_transposed_of({1, 1, {}, offset}, a, v, 4), Rows(4, {0, 0}));
      EXPECT_EQ(softmax_of({1, 1, {}, offset}, 4, a), Rows(4, {0, 0, 0}));
    }
    const Tensor none(dtype, {0, 2}, Role::input);
    EXPECT_EQ(band_in_of({1, 1}, a, none), Rows(4, {0, 0})) << "no keys at all";
  }
}

TEST_P(SpecialValues, SoftmaxOfExtremes) {
  for (const DType dtype : dtypes()) {
    const double huge = format_of(dtype).largest;
    const auto softmax = [&](const Rows& rows) { return softmax_of({1, 1, {}, 1}, 99, tensor_of(dtype, rows)); };
    EXPECT_EQ(softmax({{-kInf, -kInf, -kInf}}), (Rows{{0, 0, 0}}));
    EXPECT_EQ(softmax({{-kInf, 3, 3}}), (Rows{{0, 0.5, 0.5}}));
    EXPECT_EQ(softmax({{huge, huge, -kInf}}), (Rows{{0.5, 0.5, 0}}));
    EXPECT_EQ(softmax({{huge, -huge, 0}}), (Rows{{1, 0, 0}}));
    EXPECT_EQ(softmax({{-huge, -huge, -kInf}}), (Rows{{0.5, 0.5, 0}}));
    EXPECT_EQ(softmax({{0, 0, 0}, {-huge, 1000, -kInf}}).back(), (std::vector<double>{0, 1, 0}));
  }
}

// Over the whole range in which exp is not 0, at steps of which none is a power of two.
TEST_P(SpecialValues, SoftmaxOfEveryDistance) {
  for (const DType dtype : dtypes()) {
    Case c{.rows = 1, .cols = 5000, .window = {0, 4999, {}, 0}, .dtype = dtype};
    Trial trial(Op::softmax, c, 1);
    const double lowest = dtype == DType::f64 ? -750 : dtype == DType::f16 ? -25 : -105;
    for (index_t i = 0; i < c.cols; ++i) trial.x.set(i, lowest * static_cast<double>(i) / static_cast<double>(c.cols - 1));
    EXPECT_TRUE(trial.check(options()));
  }
}

// 1 * v for every number v of 16 bits: what is read is what is written.
TEST_P(SpecialValues, EveryHalfPassesThroughUnchanged) {
  constexpr index_t kCount = 1 << 16, kDim = 256;
  for (const DType dtype : halves()) {
    Trial trial(Op::band_in, {.rows = kCount / kDim, .cols = kCount / kDim, .dim = kDim, .dtype = dtype}, 1);
    for (index_t i = 0; i < trial.x.size(); ++i) trial.x.set(i, 1);
    for (index_t i = 0; i < kCount; ++i) {
      const auto bits = static_cast<std::uint16_t>(i);
      trial.y.set_bits(i, &bits);
    }
    ASSERT_TRUE(trial.run(options()).ok());
    for (index_t i = 0; i < kCount; ++i) {
      const double want = is_lost(trial.y[i]) ? 0 : trial.y[i];
      ASSERT_TRUE(same_special(trial.out[i], want)) << name_of(dtype) << " " << trial.y[i];
    }
  }
}

// h + d, where d is near half the distance to h's neighbour: ties go to the even one, the rest to the nearest, and what is too large to
// infinity.
TEST_P(SpecialValues, SumsAreRoundedOnceToNearestEven) {
  constexpr index_t kCount = 1 << 15;
  for (const DType dtype : halves()) {
    for (const double fraction : {0.5, 0.4375, 0.5625, -0.5}) {
      Trial trial(Op::band_out, {.rows = kCount, .cols = kCount, .dim = 2, .dtype = dtype}, 1);
      for (index_t i = 0; i < kCount; ++i) {
        const auto bits = static_cast<std::uint16_t>(i);
        trial.x.set(2 * i, 1), trial.x.set(2 * i + 1, fraction);
        trial.y.set_bits(i, &bits);
        const double h = trial.y[i];
        const double step =
            std::isfinite(h) ? std::max(std::ldexp(2 * format_of(dtype).roundoff, h > 0 ? std::ilogb(h) : -2000), format_of(dtype).quantum)
                             : 0;
        trial.y.set(kCount + i, step);
      }
      ASSERT_TRUE(trial.run(options()).ok());
      for (index_t i = 0; i < kCount; ++i) {
        const double sum = trial.y[i] + fraction * trial.y[kCount + i];
        if (static_cast<double>(static_cast<float>(sum)) != sum) continue;  // fp32 rounds it first
        if (is_lost(trial.y[i]) || is_lost(trial.y[kCount + i]) || is_lost(fraction * trial.y[kCount + i]) || is_lost(sum)) continue;
        ASSERT_TRUE(same_special(trial.out[i], rounded(dtype, sum))) << name_of(dtype) << " " << sum << " became " << trial.out[i];
      }
    }
  }
}

TEST_P(SpecialValues, SubnormalNumbersAreNumbersUnlessPairsAreMultiplied) {
  for (const DType dtype : dtypes()) {
    const double tiny = format_of(dtype).quantum;
    const Tensor a = tensor_of(dtype, {{tiny}, {3 * tiny}}), v = tensor_of(dtype, {{1, 2}, {1, 0.5}});
    const double kept = is_lost(tiny) ? 0 : tiny;
    EXPECT_EQ(band_in_of({0, 0}, a, v), (Rows{{kept, 2 * kept}, {3 * kept, 2 * kept}})) << name_of(dtype);
  }
}

WINDOW_MATMUL_TEST_EACH_ROW(SpecialValues);

}  // namespace
}  // namespace window_matmul
