// tests/cuda_emulation/attention_bars_test.cpp: which tiles fused attention visits and which of them it masks, counted over whole
// sequences; and what it moves at head dim 128.
#include <gtest/gtest.h>

#include "cuda/kernels/attention/backward_shape.hpp"
#include "cuda/kernels/attention/walk.cuh"
#include "emulated_attention.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

// Of 16 rows of a warp by the columns of a tile; and of 16 of these.
struct Tiles {
  index_t visited = 0, masked = 0, groups = 0;
};

cuda::AttentionLaunch plain_launch(index_t length, index_t left, index_t right) {
  cuda::AttentionLaunch launch;
  launch.band = {length, length, left, right, 0};
  return launch;
}

// What each warp of each item does with each tile, and what the pairs of the two say it may do.
template <bool ByKeys, int Columns>
Tiles count_tiles(const cuda::AttentionLaunch& launch, index_t block_rows) {
  const Band band = ByKeys ? launch.band.transposed() : launch.band;
  Tiles counted;
  const index_t items = cuda::blocks_of_head(launch, band.rows, block_rows);
  for (index_t n = 0; n < items; ++n) {
    const cuda::AttentionItem item = cuda::attention_item<ByKeys>(launch, n, block_rows);
    cuda::Walk<ByKeys, Columns> walk{launch, item, {}};
    walk.template start<false>();
    for (cuda::ColumnTile tile = walk.first(); !walk.is_end(tile); tile = walk.after(tile))
      for (int first_row = 0; first_row < block_rows; first_row += 16) {
        const cuda::Frame<ByKeys> frame{item, tile, first_row};
        const cuda::Groups groups = frame.groups(Columns);
        const Range rows = Range{item.first + first_row, item.first + first_row + 16}.intersect({0, band.rows});
        const Range columns = {tile.first, tile.first + Columns};
        index_t pairs = 0, touched = 0;
        for (index_t row = rows.begin; row < rows.end; ++row) pairs += band.keys(row).intersect(columns).size();
        for (index_t c = columns.begin; !rows.empty() && c < columns.end; c += 16)
          touched += !band.keys_any(rows).intersect({c, c + 16}).empty();
        EXPECT_EQ(groups.empty(), pairs == 0);
        if (groups.empty()) continue;
        const bool masked = frame.needs_mask(Columns);
        EXPECT_EQ(masked, pairs < 16 * Columns) << "rows from " << rows.begin << ", columns from " << columns.begin;
        EXPECT_EQ(groups.end - groups.begin, touched);
        ++counted.visited, counted.masked += masked, counted.groups += groups.end - groups.begin;
      }
  }
  return counted;
}

// A tile is masked if and only if some pair of it is not seen: of w on each side these are the tiles that one of the band's two edges
// cuts, and those at the ends of a sequence. Groups of 16 by 16 that are multiplied are those that hold a pair.
template <bool ByKeys, int Columns>
void check_tiles() {
  const index_t rows = 128;
  for (const auto& [left, right] : {std::pair<index_t, index_t>{128, 128}, {512, 512}, {2048, 2048}, {511, 0}, {0, 0}, {5000, 5000}})
    for (const index_t length : {index_t{4096}, index_t{1001}}) {
      SCOPED_TRACE(std::to_string(length) + " with window " + std::to_string(left) + "+" + std::to_string(right));
      const cuda::AttentionLaunch launch = plain_launch(length, left, right);
      const Tiles tiles = count_tiles<ByKeys, Columns>(launch, rows);
      const index_t warps = ceil_div(length, 16), edge = ceil_div(16 + Columns, Columns) + 1;
      EXPECT_LE(tiles.masked, 2 * edge * warps);
      index_t touched = 0;
      for (index_t row = 0; row < length; row += 16)
        touched += ceil_div(launch.band.keys_any({row, std::min(row + 16, length)}).size() + 15, 16);
      EXPECT_LE(tiles.groups, touched) << "at most one more than a window would take were it aligned";
    }
}

TEST(AttentionTiles, OfTheForwardKernel) { check_tiles<false, 64>(), check_tiles<false, 32>(), check_tiles<false, 16>(); }
TEST(AttentionTiles, OfTheKernelOfQueries) { check_tiles<false, 32>(), check_tiles<false, 16>(); }
TEST(AttentionTiles, OfTheKernelOfKeys) { check_tiles<true, 32>(), check_tiles<true, 16>(); }

TEST(AttentionTiles, HaveTheColumnsThatAreCountedHere) {
  EXPECT_EQ(cuda::attention_tiles(256).columns, 64);
  EXPECT_EQ((cuda::BackwardTiles{256, false}.columns), 32);
  EXPECT_EQ((cuda::BackwardTiles{256, true}.columns), 16);
  EXPECT_EQ((cuda::BackwardTiles{256, false}.rows), 128);
}

// The bars at the head dim that most models have, where lines are 256 bytes: sectors, accesses a request, and products.
class HeadDim128 : public testing::TestWithParam<Arithmetic> {
 protected:
  static constexpr index_t kLength = 384, kDim = 128, kWindow = 128;

  const cuda::emulation::Report& count(Op op) { return counted(op, kLength, kWindow, kDim, GetParam(), true); }
  double operand() const { return static_cast<double>(size_of(GetParam().dtype)) * kLength * kDim; }

  Emulated emulated;
};

TEST_P(HeadDim128, ForwardStaysNearTheFloor) {
  const cuda::emulation::Report& r = count(Op::attention);
  EXPECT_LE(32 * static_cast<double>(r.sectors_distinct), 1.05 * (4 * operand() + 4 * kLength));
  EXPECT_LE(r.conflicts(), 1.1);
  EXPECT_LE(static_cast<double>(r.products), 1.10 * 2 * products_of_touched_tiles(kLength, kWindow, kDim, GetParam()));
}

// Each kernel reads q, k, v and d_out once and the first out besides; four numbers a query go from one to the other.
TEST_P(HeadDim128, BackwardStaysNearTheFloor) {
  const cuda::emulation::Report& r = count(Op::attention_backward);
  EXPECT_LE(32 * static_cast<double>(r.sectors_distinct), 1.05 * (12 * operand() + (1 + 2 * 4) * 4 * kLength));
  EXPECT_LE(r.conflicts(), 1.1);
  EXPECT_LE(static_cast<double>(r.products), 1.10 * 7 * products_of_touched_tiles(kLength, kWindow, kDim, GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Cuda, HeadDim128, testing::Values(Arithmetic{DType::bf16}, Arithmetic{DType::f16}),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace window_matmul
