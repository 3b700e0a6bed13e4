// tests/cuda_emulation/kernels_test.cpp: every CUDA kernel against the definitions, over sizes, windows, dilation, strides, alignments.
#include <gtest/gtest.h>

#include "cuda/kernels/band/softmax_shape.hpp"
#include "emulated_trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class Kernels : public testing::TestWithParam<Kind> {
 protected:
  const Kind& kind() const { return GetParam(); }
  Op op() const { return kind().second; }
};

constexpr index_t kSizes[] = {1, 63, 64, 65, 130, 260};
constexpr struct {
  index_t left, right;
} kSides[] = {{0, 0}, {3, 0}, {16, 16}, {5, 90}, {64, 31}, {128, 128}, {350, 350}};

TEST_P(Kernels, SizesAndWindows) {
  Random random(11);
  for (const index_t size : kSizes)
    for (const auto& side : kSides) {
      Case c{.rows = size, .cols = size, .window = {.left = side.left, .right = side.right}, .dim = 64};
      c.dim = random.pick(Shape{8, 64, 33, 16});
      ASSERT_TRUE(check_emulated(kind(), within(c, 600'000), random.bits(), random.one_in(2) ? 2 : 0));
    }
}

TEST_P(Kernels, AnyCase) {
  Random random(12);
  for (int n = 0; n < 30; ++n) {
    const auto& side = kSides[random.up_to(6)];
    Case c = any_case(random, random.pick(kSizes), random.pick(kSizes), side.left, side.right);
    ASSERT_TRUE(check_emulated(kind(), within(c, 200'000), random.bits(), random.one_in(2) ? 1 + random.up_to(2) : 0));
  }
}

TEST_P(Kernels, TinyShapes) {
  Random random(13);
  for (index_t n = 0; n < 100; ++n) {
    const index_t rows = random.up_to(5), cols = random.up_to(5), left = random.up_to(3), right = random.up_to(3);
    Case c = any_case(random, rows, cols, left, right);
    c.dim = random.up_to(9), c.window.query_offset = random.up_to(8) - 4;
    c.lead_x = c.lead_y = {}, c.window.dilation.resize(std::min<std::size_t>(c.window.dilation.size(), 1));
    ASSERT_TRUE(check_emulated(kind(), c, random.bits()));
  }
}

// Dense tensors of every width modulo 16 bytes, at every offset: all alignments of loads and stores.
TEST_P(Kernels, Alignments) {
  Random random(14);
  for (const index_t width : {32, 33, 34, 36, 40})
    for (const index_t offset : {0, 1, 2, 4}) {
      Case c{.rows = 140, .cols = 140, .window = {.left = 16, .right = width - 16}, .dim = 40};
      c.x.offset = offset, c.y.offset = offset / 2, c.out.offset = offset;
      ASSERT_TRUE(check_emulated(kind(), c, random.bits()));
    }
}

// 128 rows see 192 keys, whole tiles of every dtype; as soon as the first tile begins earlier for its alignment, there is one more.
TEST_P(Kernels, AlignmentAsksForAnotherTile) {
  for (const index_t offset : {0, 1, 3, 6, 7}) {
    Case c{.rows = 130, .cols = 300, .window = {.left = 32, .right = 32}, .dim = 24};
    c.window.query_offset = 50, c.x.offset = c.out.offset = offset;
    ASSERT_TRUE(check_emulated(kind(), c, 17));
  }
}

TEST_P(Kernels, LongHeads) {
  for (const index_t dim : {128, 136, 200, 300}) {
    Case c{.rows = 140, .cols = 150, .window = {.left = 20, .right = 9}, .dim = dim};
    ASSERT_TRUE(check_emulated(kind(), c, 15));
  }
}

// An infinity or a NaN shows in the rows that see it and in no other.
TEST_P(Kernels, NonFiniteValuesStayWhereTheyAreSeen) {
  for (const double value : {kInf, -kInf, kNaN}) {
    const Case c{.rows = 140, .cols = 140, .window = {.left = 9, .right = 5}, .dim = 20, .dtype = kind().first.dtype};
    Trial trial(op(), c, 16);
    Tensor& where = op() == Op::softmax ? trial.x : trial.y;
    where.set(where.size() / 2, value);
    where.set(c.window.left, value);  // the first slot of row 0 that has a key: those before it stay as they are
    cuda::emulation::Report report;
    ASSERT_TRUE(check_emulated(trial, kind().first.precision, {.seed = 16}, &report));
  }
}

INSTANTIATE_TEST_SUITE_P(Cuda, Kernels, testing::ValuesIn(kinds_of_kernels()), [](const auto& test) { return name_of(test.param); });

// Numbers whose lower 13 bits are as many as can be, or a half of what they can be: the bound of a product, and one rounding of the result.
TEST(SplitFactors, ErrByTheirBound) {
  for (const double number : {1 + 0x1.fffp-11, 1 + 0x1p-11, 1 + 0x1.ffep-12, 1.5 + 0x1.8p-12, 2 - 0x1p-23, 0x1.234568p-30}) {
    const Case c{.rows = 20, .cols = 20, .window = {.left = 0, .right = 0}, .dim = 1};
    Trial trial(Op::band_out, c, 22);
    for (index_t i = 0; i < 20; ++i) trial.x.set(i, number), trial.y.set(i, i % 2 == 0 ? number : -number);
    cuda::emulation::Report report;
    ASSERT_TRUE(run_emulated(trial, Precision::high, {}, &report).ok());
    for (index_t i = 0; i < 20; ++i)
      EXPECT_LE(std::abs(std::abs(trial.out[i]) - number * number), (0x1p-21 + 0x1p-24) * number * number) << number;
  }
}

class SoftmaxRows : public testing::TestWithParam<DType> {
 protected:
  Kind kind(bool backward) const { return {{GetParam()}, backward ? Op::softmax_backward : Op::softmax}; }
};

// Rows at the limits of what a few threads hold, what 32 do, and a block, wherever a row begins in its first 16 bytes.
TEST_P(SoftmaxRows, WidthsAtTheLimitsOfThreads) {
  Random random(18);
  const std::size_t element = size_of(GetParam());
  const auto per_chunk = static_cast<index_t>(16 / element);
  for (const bool backward : {false, true})
    for (const int threads : {cuda::softmax_fewest_lanes(backward, element), 32, 256})
      for (const index_t more : {-per_chunk, 1 - per_chunk, index_t{2}, index_t{64 * per_chunk}}) {
        const index_t width = threads * per_chunk * cuda::softmax_chunks(backward, element) + more;
        Case c{.rows = threads == 256 ? 3 : 9, .cols = width + 3, .window = {.left = width / 3, .right = width - 1 - width / 3}};
        c.window.query_offset = width / 3;
        c.x.offset = random.up_to(2), c.y.offset = random.up_to(2), c.out.offset = random.up_to(2);
        ASSERT_TRUE(check_emulated(kind(backward), c, random.bits(), 1 + random.up_to(1)));
      }
}

// In rows of any width, whole or in part: -inf counts for nothing, and where there is nothing else the row is zero.
TEST_P(SoftmaxRows, OfMinusInfinity) {
  for (const index_t width : {3, 40, 500, 2000, 20000}) {
    const Case c{.rows = 4, .cols = width, .window = {.left = width / 2, .right = width - 1 - width / 2}, .dtype = GetParam()};
    Trial trial(Op::softmax, c, 19);
    for (index_t slot = 0; slot < width; ++slot) trial.x.set(width + slot, -kInf);            // row 1: all
    for (index_t slot = width / 2; slot < width; ++slot) trial.x.set(2 * width + slot, -kInf);  // row 2: the later half
    for (index_t slot = 0; slot < width - 1; ++slot) trial.x.set(3 * width + slot, slot % 2 == 0 ? -kInf : -1000.0);
    cuda::emulation::Report report;
    ASSERT_TRUE(check_emulated(trial, Precision::highest, {}, &report));
  }
}

// In a piece of a row wider than a block holds.
TEST_P(SoftmaxRows, NonFiniteValuesOfWideRows) {
  for (const double value : {kInf, kNaN}) {
    const index_t width = 20000;
    Trial trial(Op::softmax, {.rows = 3, .cols = width, .window = {.left = 0, .right = width - 1}, .dtype = GetParam()}, 20);
    trial.x.set(width + width / 2, value);
    cuda::emulation::Report report;
    ASSERT_TRUE(check_emulated(trial, Precision::highest, {}, &report));
  }
}

INSTANTIATE_TEST_SUITE_P(Cuda, SoftmaxRows, testing::ValuesIn(kDTypes), [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace window_matmul
