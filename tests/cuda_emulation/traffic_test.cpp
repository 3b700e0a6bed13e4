// tests/cuda_emulation/traffic_test.cpp: what the kernels move, counted, against the least there is to move.
// stores.
#include <gtest/gtest.h>

#include "emulated_trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

struct Counted {
  cuda::emulation::Report report;
  double floor_sectors = 0;  // of x, y and out, each once
};

Counted count(Op op, DType dtype, index_t window, index_t dim, index_t length = 512) {
  Case c{.rows = length, .cols = length, .window = {.left = window, .right = window}, .dim = dim, .dtype = dtype};
  if (op == Op::band_out) c.y.turned = true;  // k as (keys, N), seen transposed
  Trial trial(op, c, 21);
  Counted counted;
  EXPECT_TRUE(check_emulated(trial, {.count_traffic = true}, &counted.report));
  const auto bytes = static_cast<double>(size_of(dtype));
  // Band storage: the slots that have a key. band_out writes the others too.
  const Band band{length, length, window, window, 0};
  const double slots = op == Op::band_out ? static_cast<double>(length * band.width()) : static_cast<double>(pairs(band));
  counted.floor_sectors = (slots + 2.0 * static_cast<double>(length * dim)) * bytes / 32;
  return counted;
}

class Traffic : public testing::TestWithParam<std::tuple<DType, Op, index_t>> {};

TEST_P(Traffic, StaysNearTheFloor) {
  const auto [dtype, op, window] = GetParam();
  const Counted c = count(op, dtype, window, 64);
  const auto distinct = static_cast<double>(c.report.sectors_distinct), requested = static_cast<double>(c.report.sectors_requested);
  RecordProperty("distinct_over_floor", std::to_string(distinct / c.floor_sectors));
  RecordProperty("requested_over_floor", std::to_string(requested / c.floor_sectors));
  RecordProperty("conflicts", std::to_string(c.report.conflicts()));
  std::printf("distinct %.3f, requested %.3f of the floor; conflicts %.3f; stored by 16: %.3f\n", distinct / c.floor_sectors,
              requested / c.floor_sectors, c.report.conflicts(),
              static_cast<double>(c.report.bytes_stored_by_16) / static_cast<double>(c.report.bytes_stored));
  EXPECT_LE(distinct, 1.1 * c.floor_sectors);
  EXPECT_LE(c.report.conflicts(), 1.1);
}

std::string name_of_traffic(const testing::TestParamInfo<std::tuple<DType, Op, index_t>>& info) {
  return std::string(name_of(std::get<0>(info.param))) + "_" + name_of(std::get<1>(info.param)) + "_" +
         std::to_string(std::get<2>(info.param));
}
INSTANTIATE_TEST_SUITE_P(Cuda, Traffic, testing::Combine(testing::ValuesIn(kDTypes), testing::ValuesIn(kCudaOps), testing::Values(64, 128)),
                         name_of_traffic);

// y is read again by the next block of rows as far as both see it, and otherwise once; x and out once.
TEST(TrafficOfKeys, AreReadOnceAndWhatNeighboursShare) {
  const index_t length = 512, window = 64, dim = 64;
  const Counted c = count(Op::band_out, DType::bf16, window, dim, length);
  const double keys = 2.0 * length * dim, queries = keys;
  EXPECT_LE(static_cast<double>(c.report.bytes_loaded), queries + keys * (1 + 2.0 * window / 128) * 1.02);
}

TEST(TrafficOfStores, AreWideInTheInterior) {
  for (const DType dtype : kDTypes) {
    const Counted c = count(Op::band_out, dtype, 128, 16);
    EXPECT_GE(static_cast<double>(c.report.bytes_stored_by_16), 0.75 * static_cast<double>(c.report.bytes_stored)) << name_of(dtype);
  }
}

}  // namespace
}  // namespace window_matmul
