// tests/cuda_emulation/attention_backward_traffic_test.cpp: what the kernels of fused attention's gradients move and multiply, against the
// least there is.
#include <gtest/gtest.h>

#include "emulated_attention.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

constexpr index_t kDim = 64;

class BackwardTraffic : public testing::TestWithParam<Arithmetic> {
 protected:
  const cuda::emulation::Report& count(index_t length, index_t window, bool traffic) {
    return counted(Op::attention_backward, length, window, kDim, GetParam(), traffic);
  }
  Emulated emulated;
};

// Each kernel reads each operand once, but what streams past the rows as often as blocks of rows both see it; d_out once more, for its
// product with out. fp64 sums its head dim in two turns, and d_k and d_v in a launch each.
TEST_P(BackwardTraffic, StaysNearTheFloor) {
  constexpr index_t kLength = 384, kWindow = 64;
  const cuda::emulation::Report& r = count(kLength, kWindow, true);
  const bool wide = GetParam().dtype == DType::f64;
  const auto element = static_cast<double>(size_of(GetParam().dtype)), sum = wide ? 8.0 : 4.0;
  const double operand = element * kLength * kDim, facts = 4 * sum * kLength, stored = 3 * operand + facts;
  const double floor = (wide ? 12 : 9) * operand + sum * kLength + (wide ? 2 : 1) * facts + stored;
  std::printf("distinct %.3f of the floor; conflicts %.3f; loaded %.3f of once; stored by 16: %.3f\n",
              32 * static_cast<double>(r.sectors_distinct) / floor, r.conflicts(), static_cast<double>(r.bytes_loaded) / (9 * operand),
              static_cast<double>(r.bytes_stored_by_16) / stored);
  EXPECT_LE(32 * static_cast<double>(r.sectors_distinct), 1.05 * floor);
  EXPECT_LE(r.conflicts(), 1.1);
  EXPECT_EQ(static_cast<double>(r.bytes_stored), stored);
  EXPECT_EQ(static_cast<double>(r.bytes_stored_by_16), stored);
  const double again = 1 + 2.0 * kWindow / (wide ? 64 : 128), turns = wide ? 2 : 1, launches = wide ? 2 : 1;
  const double of_queries = 4 * operand + sum * kLength + turns * 2 * operand * again;
  const double of_keys = (wide ? 3 : 2) * operand + launches * turns * (2 * operand + facts) * again;
  EXPECT_LE(static_cast<double>(r.bytes_loaded), of_queries + of_keys);
}

// Tiles of 16 rows by 16 columns that hold a pair: no more than those are multiplied, three times for d_q and four for d_k and d_v.
TEST_P(BackwardTraffic, ProductsAreThoseOfTilesTheBandTouches) {
  if (GetParam().precision == Precision::highest && size_of(GetParam().dtype) != 2) GTEST_SKIP() << "plain multiply-adds are not counted";
  for (const auto& [length, window, most] : {std::tuple<index_t, index_t, double>{512, 128, 1.10}, {512, 384, 1.03}}) {
    const double products = 7.0 * products_of_touched_tiles(length, window, kDim, GetParam());
    EXPECT_LE(static_cast<double>(count(length, window, false).products), most * products) << window;
  }
}

INSTANTIATE_TEST_SUITE_P(Cuda, BackwardTraffic, testing::ValuesIn(kArithmetics), [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace window_matmul
