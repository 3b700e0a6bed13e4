// tests/cpp/band_test.cpp: the geometry of band.hpp against its definition, over all small sizes and at the far end of the integers.
#include "window_matmul/band.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <vector>

namespace window_matmul {
namespace {

__extension__ using wide_t = __int128;  // the oracle of the extreme values

// The definition, in words of its own: key k lies t taps of `dilation` tokens from the key aligned with query q, -left <= t <= right.
bool sees(const Band& band, index_t dilation, index_t q, index_t k) {
  const index_t distance = k - (q + band.shift);
  return 0 <= k && k < band.cols && distance % dilation == 0 && -band.left <= distance / dilation && distance / dilation <= band.right;
}

using KeySet = unsigned;  // bit k: key k

KeySet seen_by(const Band& band, index_t q) {
  KeySet set = 0;
  for (index_t k = 0; k < band.cols; ++k) set |= sees(band, 1, q, k) ? 1u << k : 0u;
  return set;
}

KeySet set_of(Range keys) {
  KeySet set = 0;
  for (index_t k = keys.begin; k < keys.end; ++k) set |= 1u << k;
  return set;
}

std::string text(const Band& b) {
  return "rows " + std::to_string(b.rows) + " cols " + std::to_string(b.cols) + " left " + std::to_string(b.left) + " right " +
         std::to_string(b.right) + " shift " + std::to_string(b.shift);
}

template <class F>
void for_each_small_band(F f) {
  constexpr index_t sides[] = {0, 1, 2, 3, 4, kUnbounded};
  for (index_t rows = 0; rows <= 7; ++rows) {
    for (index_t cols = 0; cols <= 7; ++cols) {
      for (const index_t left : sides) {
        for (const index_t right : sides) {
          for (index_t shift = -4; shift <= 4 && !testing::Test::HasFailure(); ++shift) f(Band{rows, cols, left, right, shift});
        }
      }
    }
  }
}

template <class F>
void for_each_tile(const Band& band, F f) {
  for (index_t begin = 0; begin < band.rows; ++begin) {
    for (index_t end = begin + 1; end <= band.rows; ++end) f(Range{begin, end});
  }
}

constexpr Band kDrawing{6, 6, 2, 1, 0};  // the one at the head of band.hpp

static_assert(kDrawing.width() == 4);
static_assert(kDrawing.keys(0) == Range{0, 2} && kDrawing.keys(3) == Range{1, 5} && kDrawing.keys(5) == Range{3, 6});
static_assert(kDrawing.slots(0) == Range{2, 4} && kDrawing.slots(3) == Range{0, 4} && kDrawing.slots(5) == Range{0, 3});
static_assert(kDrawing.keys_any({2, 4}) == Range{0, 5} && kDrawing.keys_all({2, 4}) == Range{1, 4});
static_assert(kDrawing.contains(0, 1) && !kDrawing.contains(0, 2) && kDrawing.contains(2, 0) && !kDrawing.contains(3, 0));
static_assert(kDrawing.transposed() == Band{6, 6, 1, 2, 0} && pairs(kDrawing) == 2 + 3 + 4 + 4 + 4 + 3);
static_assert(Band{3, 5, 0, 0, 2}.keys(0) == Range{2, 3}, "bottom-right: the last query is aligned with the last key");
static_assert(Band{2, 0, 1, 1, 0}.keys(0).empty() && pairs(Band{0, 9, 1, 1, 0}) == 0);
static_assert(dilated_part(Band{6, 6, 1, 1, 0}, 3, 1).band == Band{2, 2, 1, 1, 0});
static_assert(floor_mod(-1, 3) == 2 && floor_mod(4, 3) == 1 && ceil_div(7, 3) == 3 && round_up(7, 3) == 9);
static_assert(Range{2, 5}.contains(Range{4, 4}) && !Range{2, 5}.contains(Range{4, 6}) && Range{2, 5}.contains(2) &&
              !Range{2, 5}.contains(5));
static_assert(Range{2, 5}.intersect({4, 9}) == Range{4, 5} && Range{2, 5}.intersect({7, 9}).empty() && Range{5, 2}.size() == 0);

TEST(Band, RowsFollowTheDefinition) {
  for_each_small_band([](const Band& band) {
    SCOPED_TRACE(text(band));
    EXPECT_EQ(band.width(), band.left + band.right + 1);
    index_t visible = 0;
    for (index_t q = 0; q < band.rows; ++q) {
      const KeySet seen = seen_by(band, q);
      visible += std::popcount(seen);
      EXPECT_EQ(set_of(band.keys(q)), seen) << "query " << q;
      EXPECT_EQ(band.keys(q).size(), std::popcount(seen)) << "query " << q;
      EXPECT_EQ(band.slots(q).size(), std::popcount(seen)) << "query " << q;
      for (index_t k = -2; k <= band.cols + 1; ++k) EXPECT_EQ(band.contains(q, k), sees(band, 1, q, k)) << "query " << q << " key " << k;
    }
    EXPECT_EQ(pairs(band), visible);
  });
}

TEST(Band, SlotsAndKeysNameTheSamePairs) {
  for_each_small_band([](const Band& band) {
    SCOPED_TRACE(text(band));
    for (index_t q = 0; q < band.rows; ++q) {
      EXPECT_EQ(band.slot(q, band.first(q)), 0);
      EXPECT_EQ(band.slot(q, q + band.shift), band.left) << "the aligned key sits in slot `left`";
      EXPECT_EQ(band.slot(q, band.last(q)), band.width() - 1);
      const Range slots = band.slots(q);
      for (index_t k = 0; k < band.cols; ++k)
        EXPECT_EQ(slots.contains(band.slot(q, k)), sees(band, 1, q, k)) << "query " << q << " key " << k;
    }
  });
}

TEST(Band, TransposedHoldsTheSamePairs) {
  for_each_small_band([](const Band& band) {
    SCOPED_TRACE(text(band));
    const Band turned = band.transposed();
    EXPECT_EQ(turned.transposed(), band);
    EXPECT_EQ(pairs(turned), pairs(band));
    for (index_t q = 0; q < band.rows; ++q) {
      for (index_t k = 0; k < band.cols; ++k) {
        EXPECT_EQ(turned.contains(k, q), sees(band, 1, q, k)) << "query " << q << " key " << k;
        EXPECT_EQ(turned.slot(k, q) + band.slot(q, k), band.left + band.right) << "query " << q << " key " << k;
      }
    }
  });
}

TEST(Band, TilesFollowTheDefinition) {
  for_each_small_band([](const Band& band) {
    for_each_tile(band, [&](Range tile) {
      KeySet any = 0, all = ~0u;
      for (index_t q = tile.begin; q < tile.end; ++q) any |= seen_by(band, q), all &= seen_by(band, q);
      EXPECT_EQ(set_of(band.keys_any(tile)), any) << text(band) << " queries " << tile.begin << ".." << tile.end;
      EXPECT_EQ(set_of(band.keys_all(tile)), all) << text(band) << " queries " << tile.begin << ".." << tile.end;
    });
  });
}

// Each visible pair lies in exactly one tile; a tile is unmasked exactly where every query sees every key of it.
TEST(Walker, VisitsEveryPairOnceAndMasksOnlyEdges) {
  for_each_small_band([](const Band& band) {
    for_each_tile(band, [&](Range queries) {
      KeySet any = 0, all = ~0u;
      for (index_t q = queries.begin; q < queries.end; ++q) any |= seen_by(band, q), all &= seen_by(band, q);
      for (index_t block = 1; block <= 3; ++block) {
        KeySet visited = 0;
        index_t tiles = 0;
        for_each_key_tile(band, queries, block, [&](Range keys, bool needs_mask) {
          const KeySet tile = set_of(keys);
          EXPECT_EQ(visited & tile, 0u) << text(band) << " visits key " << keys.begin << " twice, or an earlier one";
          EXPECT_EQ(needs_mask, (tile & ~all) != 0) << text(band) << " keys " << keys.begin << ".." << keys.end;
          EXPECT_TRUE(0 < keys.size() && keys.size() <= block) << text(band);
          visited |= tile, ++tiles;
        });
        EXPECT_EQ(visited, any) << text(band) << " queries " << queries.begin << ".." << queries.end << " block " << block;
        EXPECT_EQ(tiles, ceil_div(std::popcount(any), block)) << text(band) << ": tiles start at the first key and are full";
      }
    });
  });
}

void expect_parts_cover(const Band& band, index_t dilation) {
  std::vector<int> owners(static_cast<std::size_t>(band.rows));
  std::vector<int> found(static_cast<std::size_t>(band.rows * band.cols));
  for (index_t part = 0; part < dilated_parts(band, dilation); ++part) {
    const DilatedPart p = dilated_part(band, dilation, part);
    EXPECT_GE(p.band.rows, 1) << "an empty part";
    for (index_t q = 0; q < p.band.rows; ++q) {
      const index_t i = p.first_row + dilation * q;
      ASSERT_TRUE(0 <= i && i < band.rows) << "row " << i;
      ++owners[static_cast<std::size_t>(i)];
      for (index_t k = 0; k < p.band.cols; ++k) {
        const index_t j = p.first_col + dilation * k;
        ASSERT_TRUE(0 <= j && j < band.cols) << "col " << j;
        ASSERT_EQ(p.band.contains(q, k), sees(band, dilation, i, j)) << "part " << part << " pair " << i << ", " << j;
        if (!p.band.contains(q, k)) continue;
        ++found[static_cast<std::size_t>(i * band.cols + j)];
        EXPECT_EQ(j, i + band.shift + (p.band.slot(q, k) - band.left) * dilation) << "slots are those of the whole";
      }
    }
  }
  for (const int owner : owners) EXPECT_EQ(owner, 1) << "a row in no part, or in two";
  for (index_t i = 0; i < band.rows; ++i) {
    for (index_t j = 0; j < band.cols; ++j) {
      EXPECT_EQ(found[static_cast<std::size_t>(i * band.cols + j)], sees(band, dilation, i, j)) << "pair " << i << ", " << j;
    }
  }
}

TEST(DilatedPart, PartsHoldEveryRowAndEveryPairOnce) {
  for (index_t dilation = 1; dilation <= 4; ++dilation) {
    for_each_small_band([=](const Band& band) {
      SCOPED_TRACE(text(band) + " dilation " + std::to_string(dilation));
      expect_parts_cover(band, dilation);
    });
  }
}

constexpr index_t kFar[] = {0, 1, 2, (index_t{1} << 60) - 1, index_t{1} << 60};

template <class F>
void for_each_extreme_band(F f) {
  for (const index_t rows : kFar) {
    for (const index_t cols : kFar) {
      for (const index_t left : kFar) {
        for (const index_t right : kFar) {
          for (const index_t shift : kFar) f(Band{rows, cols, left, right, shift}), f(Band{rows, cols, left, right, -shift});
        }
      }
    }
  }
}

// Keys that exist among [begin, end), in arithmetic that cannot wrap.
wide_t count(const Band& band, wide_t begin, wide_t end) {
  const wide_t b = begin < 0 ? 0 : begin, e = end > band.cols ? wide_t{band.cols} : end;
  return e > b ? e - b : 0;
}

TEST(Extremes, RowsAndTilesDoNotWrap) {
  for_each_extreme_band([](const Band& band) {
    if (band.rows == 0) return;
    const index_t end = band.rows - 1;
    const wide_t low = wide_t{band.shift} - band.left, high = wide_t{band.shift} + band.right + 1;  // of query 0
    ASSERT_TRUE(band.keys(end).size() == count(band, low + end, high + end)) << text(band);
    ASSERT_TRUE(band.slots(end).size() == count(band, low + end, high + end)) << text(band);
    ASSERT_TRUE(band.keys_any({0, band.rows}).size() == count(band, low, high + end)) << text(band);
    ASSERT_TRUE(band.keys_all({0, band.rows}).size() == count(band, low + end, high)) << text(band);
    ASSERT_TRUE(wide_t{band.width()} == wide_t{band.left} + 1 + band.right) << text(band);
    index_t tiles = 0;
    for_each_key_tile(band, {0, band.rows}, kUnbounded, [&](Range keys, bool) { tiles += keys.size() > 0; });
    ASSERT_LE(tiles, 1) << text(band);
  });
}

TEST(Extremes, DilatedPartsDoNotWrap) {
  for_each_extreme_band([](const Band& band) {
    for (const index_t dilation : {index_t{1}, index_t{3}, kUnbounded - 1, kUnbounded}) {
      if (band.rows == 0) return;
      const index_t part = dilated_parts(band, dilation) - 1;
      const DilatedPart p = dilated_part(band, dilation, part);
      ASSERT_TRUE(0 <= p.first_col && p.first_col < dilation && p.first_row == part) << text(band) << " dilation " << dilation;
      ASSERT_TRUE(wide_t{p.first_col} + wide_t{p.band.shift} * dilation == wide_t{part} + band.shift)
          << text(band) << " dilation " << dilation;
      ASSERT_TRUE(wide_t{p.first_row} + wide_t{p.band.rows - 1} * dilation < band.rows) << text(band) << " dilation " << dilation;
      ASSERT_TRUE(wide_t{p.first_row} + wide_t{p.band.rows} * dilation >= band.rows) << text(band) << " dilation " << dilation;
    }
  });
}

// sum over q in [0, rows) of the keys before `end` of query 0 and its successors, in arithmetic that cannot wrap
wide_t sum_before(const Band& band, wide_t end) {
  const wide_t rows = band.rows, cols = band.cols;
  const wide_t empty = end < 0 ? (-end < rows ? -end : rows) : 0;                                         // rows that see nothing yet
  const wide_t full = end + rows - 1 < cols ? 0 : (rows < end + rows - cols ? rows : end + rows - cols);  // rows that reach the last key
  const wide_t rest = rows - empty - full, first = end + empty;
  return rest > 0 ? rest * first + rest * (rest - 1) / 2 + full * cols : full * cols;
}

TEST(Extremes, PairsAreExactWhereTheyFit) {
  int checked = 0;
  for_each_extreme_band([&](const Band& band) {
    const wide_t all = sum_before(band, wide_t{band.shift} + band.right + 1) - sum_before(band, wide_t{band.shift} - band.left);
    if (all > INT64_MAX) return;
    ++checked;
    ASSERT_TRUE(wide_t{pairs(band)} == all) << text(band) << " gives " << pairs(band);
  });
  EXPECT_GT(checked, 1000);
}

}  // namespace
}  // namespace window_matmul
