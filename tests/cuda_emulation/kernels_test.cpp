// tests/cuda_emulation/kernels_test.cpp: every CUDA kernel against the definitions, over sizes, windows, dilation, strides, alignments.
// alignments.
#include <gtest/gtest.h>

#include "emulated_trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class Kernels : public testing::TestWithParam<std::tuple<DType, Op>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  Op op() const { return std::get<1>(GetParam()); }
};

constexpr index_t kSizes[] = {1, 63, 64, 65, 130, 300};
constexpr struct {
  index_t left, right;
} kSides[] = {{0, 0}, {3, 0}, {16, 16}, {5, 90}, {64, 31}, {128, 128}, {350, 350}};

TEST_P(Kernels, SizesAndWindows) {
  Random random(11);
  for (const index_t size : kSizes)
    for (const auto& side : kSides) {
      Case c{.rows = size, .cols = size, .window = {.left = side.left, .right = side.right}, .dim = 64, .dtype = dtype()};
      c.dim = random.pick(Shape{8, 64, 33, 16});
      ASSERT_TRUE(check_emulated(op(), within(c, 1'500'000), random.bits(), random.one_in(2) ? 2 : 0));
    }
}

TEST_P(Kernels, AnyCase) {
  Random random(12);
  for (int n = 0; n < 40; ++n) {
    const auto& side = kSides[random.up_to(6)];
    Case c = any_case(random, random.pick(kSizes), random.pick(kSizes), side.left, side.right);
    c.dtype = dtype();
    ASSERT_TRUE(check_emulated(op(), within(c, 400'000), random.bits(), random.one_in(2) ? 1 + random.up_to(2) : 0));
  }
}

TEST_P(Kernels, TinyShapes) {
  Random random(13);
  for (index_t n = 0; n < 100; ++n) {
    const index_t rows = random.up_to(5), cols = random.up_to(5), left = random.up_to(3), right = random.up_to(3);
    Case c = any_case(random, rows, cols, left, right);
    c.dtype = dtype(), c.dim = random.up_to(9), c.window.query_offset = random.up_to(8) - 4;
    c.lead_x = c.lead_y = {}, c.window.dilation.resize(std::min<std::size_t>(c.window.dilation.size(), 1));
    ASSERT_TRUE(check_emulated(op(), c, random.bits()));
  }
}

// Dense tensors of every width modulo 16 bytes, at every offset: all alignments of loads and stores.
TEST_P(Kernels, Alignments) {
  Random random(14);
  for (const index_t width : {32, 33, 34, 36, 40})
    for (const index_t offset : {0, 1, 2, 4}) {
      Case c{.rows = 140, .cols = 140, .window = {.left = 16, .right = width - 16}, .dim = 40, .dtype = dtype()};
      c.x.offset = offset, c.y.offset = offset / 2, c.out.offset = offset;
      ASSERT_TRUE(check_emulated(op(), c, random.bits()));
    }
}

// 128 rows see 192 keys, whole tiles of every dtype; as soon as the first tile begins earlier for its alignment, there is one more.
TEST_P(Kernels, AlignmentAsksForAnotherTile) {
  for (const index_t offset : {0, 1, 3, 6, 7}) {
    Case c{.rows = 130, .cols = 300, .window = {.left = 32, .right = 32}, .dim = 24, .dtype = dtype()};
    c.window.query_offset = 50, c.x.offset = c.out.offset = offset;
    ASSERT_TRUE(check_emulated(op(), c, 17));
  }
}

TEST_P(Kernels, LongHeads) {
  for (const index_t dim : {128, 136, 200, 300}) {
    Case c{.rows = 140, .cols = 150, .window = {.left = 20, .right = 9}, .dim = dim, .dtype = dtype()};
    ASSERT_TRUE(check_emulated(op(), c, 15));
  }
}

// An infinity or a NaN shows in the rows that see it and in no other.
TEST_P(Kernels, NonFiniteValuesStayWhereTheyAreSeen) {
  for (const double value : {kInf, -kInf, kNaN}) {
    Case c{.rows = 140, .cols = 140, .window = {.left = 9, .right = 5}, .dim = 20, .dtype = dtype()};
    Trial trial(op(), c, 16);
    trial.y.set(trial.y.size() / 2, value);
    cuda::emulation::Report report;
    ASSERT_TRUE(check_emulated(trial, {}, &report));
  }
}

std::string name_of_kernel(const testing::TestParamInfo<std::tuple<DType, Op>>& info) {
  return std::string(name_of(std::get<0>(info.param))) + "_" + name_of(std::get<1>(info.param));
}
INSTANTIATE_TEST_SUITE_P(Cuda, Kernels, testing::Combine(testing::ValuesIn(kDTypes), testing::ValuesIn(kCudaOps)), name_of_kernel);

}  // namespace
}  // namespace window_matmul
