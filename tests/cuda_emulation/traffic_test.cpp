// tests/cuda_emulation/traffic_test.cpp: what the kernels move, counted, against the least there is to move.
#include <gtest/gtest.h>

#include "emulated_trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

constexpr index_t kLength = 384, kDim = 64;

struct Counted {
  cuda::emulation::Report report;
  double slots = 0, keys = 0;         // bytes of the band's slots that have a key, and of a matrix (keys, N)
  double least_loaded = 0, least = 0;  // bytes: each operand once; and out besides
};

Counted count(const Kind& kind, index_t window, bool traffic) {
  const auto& [arithmetic, op] = kind;
  Case c{.rows = kLength, .cols = kLength, .window = {.left = window, .right = window}, .dim = kDim, .dtype = arithmetic.dtype};
  if (op == Op::band_out) c.y.turned = true;  // k as (keys, N), seen transposed
  Trial trial(op, c, 21);
  Counted counted;
  EXPECT_TRUE(check_emulated(trial, arithmetic.precision, {.seed = 21, .count_traffic = traffic}, &counted.report));
  const auto element = static_cast<double>(size_of(arithmetic.dtype));
  const Band band{kLength, kLength, window, window, 0};
  const double all_slots = element * static_cast<double>(kLength * band.width());
  counted.slots = element * static_cast<double>(pairs(band)), counted.keys = element * kLength * kDim;
  const bool writes_band = !(op == Op::band_in || op == Op::band_in_transposed);
  counted.least_loaded = op == Op::band_out  ? 2 * counted.keys
                         : op == Op::softmax ? counted.slots
                         : is_product(op)    ? counted.slots + counted.keys
                                             : 2 * counted.slots;
  counted.least = counted.least_loaded + (writes_band ? all_slots : counted.keys);
  return counted;
}

class Traffic : public testing::TestWithParam<std::tuple<Kind, index_t>> {
 protected:
  const Kind& kind() const { return std::get<0>(GetParam()); }
  index_t window() const { return std::get<1>(GetParam()); }
};

// Each operand is loaded once, but what the products multiply the band by as often as neighbouring blocks of 128 rows both see it.
TEST_P(Traffic, StaysNearTheFloor) {
  const Counted c = count(kind(), window(), true);
  const double sectors = c.least / 32;
  const auto distinct = static_cast<double>(c.report.sectors_distinct), requested = static_cast<double>(c.report.sectors_requested);
  const auto loaded = static_cast<double>(c.report.bytes_loaded), stored = static_cast<double>(c.report.bytes_stored);
  std::printf("distinct %.3f, requested %.3f of the floor; conflicts %.3f; stored by 16: %.3f\n", distinct / sectors, requested / sectors,
              c.report.conflicts(), static_cast<double>(c.report.bytes_stored_by_16) / stored);
  EXPECT_LE(distinct, 1.1 * sectors);
  EXPECT_LE(c.report.conflicts(), 1.1);
  EXPECT_GE(static_cast<double>(c.report.bytes_stored_by_16), 0.75 * stored);
  EXPECT_EQ(stored, c.least - c.least_loaded);
  const double again = is_product(kind().second) ? c.keys * 2.0 * static_cast<double>(window()) / 128 : 0;
  EXPECT_GE(loaded, c.least_loaded);
  EXPECT_LE(loaded, c.least_loaded + again);
}

INSTANTIATE_TEST_SUITE_P(Cuda, Traffic, testing::Combine(testing::ValuesIn(kinds_of_kernels()), testing::Values(64, 128)),
                         [](const auto& test) { return name_of(std::get<0>(test.param)) + "_" + std::to_string(std::get<1>(test.param)); });

// Tiles of a warp, 16 rows and 64 keys (band_out) or 128 bytes of the band, that hold a pair: no more than those are multiplied.
TEST(Products, AreThoseOfTilesTheBandTouches) {
  const index_t window = 128;
  const Band band{kLength, kLength, window, window, 0};
  for (const Kind& kind : kinds_of_kernels()) {
    const auto& [arithmetic, op] = kind;
    const bool on_tensor_cores = arithmetic.precision == Precision::high || size_of(arithmetic.dtype) == 2;  // the others are not counted
    if (!is_product(op) || !on_tensor_cores) continue;
    const index_t columns = op == Op::band_out ? 64 : 128 / static_cast<index_t>(size_of(arithmetic.dtype));
    index_t tiles = 0;
    for (index_t row = 0; row < kLength; row += 16)
      for (index_t column = 0; column < kLength; column += columns)
        tiles += !band.keys_any({row, row + 16}).intersect({column, column + columns}).empty();
    const index_t products = tiles * 16 * columns * kDim * (arithmetic.precision == Precision::high ? 3 : 1);
    EXPECT_LE(static_cast<double>(count(kind, window, false).report.products), 1.1 * static_cast<double>(products)) << name_of(kind);
  }
}

}  // namespace
}  // namespace window_matmul
