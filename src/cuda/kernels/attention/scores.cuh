// src/cuda/kernels/attention/scores.cuh: what becomes of the scores that a warp holds: scale and cap, bias, masks, dropout. Forward and
// backward.
//
// Each is a phase on the registers, entered or not for a whole tile; the order is that of the contract: cap, bias, masks. Scores are in
// units of log 2 from the first phase on. ByKeys: rows of the scores are keys and columns queries.
#pragma once

#include <limits>

#include "cuda/kernels/attention/item.cuh"
#include "cuda/kernels/attention/product.cuh"
#include "philox.hpp"

namespace window_matmul::cuda {

inline constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

template <class Sum>
WINDOW_MATMUL_DEVICE constexpr Sum minus_infinity() {
  return -std::numeric_limits<Sum>::infinity();
}

// f(score, h, n) with row g + 8 h of the lane, and n = 2 f + e for its column 8 f + 2 t + e.
template <class Sum, int Fragments, class F>
WINDOW_MATMUL_DEVICE void for_each_score(Sum (&s)[Fragments][4], F&& f) {
  WINDOW_MATMUL_UNROLL
  for (int n = 0; n < 2 * Fragments; ++n) {
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) f(s[n / 2][2 * h + n % 2], h, n);
  }
}

WINDOW_MATMUL_DEVICE int column_of_score(int n) { return 8 * (n / 2) + 2 * (lane_index() % 4) + n % 2; }

// ---- where the scores of a warp lie ---------------------------------------------------------------------------------------------------

// A tile of columns of the walk; or `beyond` the band: a tile of positions, of which pairs outside the window are seen where one is global.
struct ColumnTile {
  index_t first = 0;
  bool beyond = false;
};

template <bool ByKeys>
struct Frame {
  const AttentionItem& item;
  ColumnTile tile;
  int first_row;  // of the warp, from item.first on

  WINDOW_MATMUL_DEVICE index_t row(int h) const { return item.first + first_row + lane_index() / 4 + 8 * h; }
  WINDOW_MATMUL_DEVICE index_t column(int n) const { return tile.first + column_of_score(n); }
  WINDOW_MATMUL_DEVICE index_t row_position(int h) const { return item.row_position(row(h)); }
  WINDOW_MATMUL_DEVICE index_t column_position(int n) const { return tile.beyond ? column(n) : item.column_position(column(n)); }
  WINDOW_MATMUL_DEVICE index_t query(int h, int n) const { return ByKeys ? column_position(n) : row_position(h); }
  WINDOW_MATMUL_DEVICE index_t key(int h, int n) const { return ByKeys ? row_position(h) : column_position(n); }

  // The columns of the tile that a row of the block sees, from the tile's first on.
  WINDOW_MATMUL_DEVICE int begin_of(int r) const { return (item.low + r > 0 ? item.low + r : 0) - int(tile.first - item.base); }
  WINDOW_MATMUL_DEVICE int end_of(int r) const {
    return (item.high + r < item.end ? item.high + r : item.end) - int(tile.first - item.base);
  }

  // Groups of 16 columns that some row of the warp sees, of a tile of so many columns; and whether some row does not see all of them.
  WINDOW_MATMUL_DEVICE Groups groups(int columns) const {
    const int rows = item.seen_rows - first_row;
    if (rows <= 0) return {0, 0};
    if (tile.beyond) return {0, columns / 16};
    const int begin = begin_of(first_row), end = end_of(first_row + (rows < kWarpRows ? rows : kWarpRows) - 1);
    return {(begin > 0 ? begin : 0) / 16, ((end < columns ? end : columns) + 15) / 16};
  }
  WINDOW_MATMUL_DEVICE bool needs_mask(int columns) const {
    return tile.beyond || item.seen_rows - first_row < kWarpRows || begin_of(first_row + kWarpRows - 1) > 0 || end_of(first_row) < columns;
  }
};

// ---- phases ---------------------------------------------------------------------------------------------------------------------------

// Products to scores in units of log 2.
template <class Sum, int Fragments>
WINDOW_MATMUL_DEVICE void scale_and_cap(Sum (&s)[Fragments][4], double scale, double softcap) {
  if (softcap > 0) {
    const Sum inner = static_cast<Sum>(scale / softcap), outer = static_cast<Sum>(softcap * kLog2E);
    for_each_fragment(s, [&](Sum(&scores)[4], int) {
      WINDOW_MATMUL_UNROLL
      for (Sum& score : scores) score = outer * hyperbolic_tangent(score * inner);
    });
  } else {
    const Sum factor = static_cast<Sum>(scale * kLog2E);
    for_each_score(s, [&](Sum& score, int, int) { score *= factor; });
  }
}

// Of a tile inside the band. What a row does not see becomes -inf.
template <bool ByKeys, class Sum, int Fragments>
WINDOW_MATMUL_DEVICE void mask_band(Sum (&s)[Fragments][4], const Frame<ByKeys>& frame) {
  WINDOW_MATMUL_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int row = frame.first_row + lane_index() / 4 + 8 * h;
    const int low = frame.begin_of(row), high = row < frame.item.seen_rows ? frame.end_of(row) : low;
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < 2 * Fragments; ++n) {
      const int column = column_of_score(n);
      if (column < low || column >= high) s[n / 2][2 * h + n % 2] = minus_infinity<Sum>();
    }
  }
}

// Whether the key or query at a position is one of these.
WINDOW_MATMUL_DEVICE bool holds(const TokenSet& set, const AttentionItem& item, Range there, index_t position) {
  if (position < 0 || position >= there.size()) return false;
  if (set.bytes == 0) return position < set.count;
  return load_byte(set.bytes + std::uintptr_t(times(item.batch, set.batch) + times(there.begin + position, set.stride))) != 0;
}
template <bool ByKeys>
WINDOW_MATMUL_DEVICE Range keys_there(const AttentionItem& item) {
  return ByKeys ? Range{item.rows_there.begin, item.rows_there.begin + item.band.cols} : item.columns_there;
}

// A bit for each of the two rows of a lane, or for its two columns in a fragment.
template <bool ByKeys>
WINDOW_MATMUL_DEVICE std::uint32_t rows_in(const TokenSet& set, const Frame<ByKeys>& frame, Range there) {
  return std::uint32_t{holds(set, frame.item, there, frame.row_position(0))} |
         std::uint32_t{holds(set, frame.item, there, frame.row_position(1))} << 1;
}
template <bool ByKeys>
WINDOW_MATMUL_DEVICE std::uint32_t columns_in(const TokenSet& set, const Frame<ByKeys>& frame, Range there, int fragment) {
  return std::uint32_t{holds(set, frame.item, there, frame.column_position(2 * fragment))} |
         std::uint32_t{holds(set, frame.item, there, frame.column_position(2 * fragment + 1))} << 1;
}

template <bool ByKeys, class Sum, int Fragments>
WINDOW_MATMUL_DEVICE void mask_keys(Sum (&s)[Fragments][4], const AttentionLaunch& launch, const Frame<ByKeys>& frame) {
  const Range keys = keys_there<ByKeys>(frame.item);
  const std::uint32_t rows = ByKeys ? rows_in(launch.key_mask, frame, keys) : 0;
  for_each_fragment(s, [&](Sum(&scores)[4], int fragment) {
    const std::uint32_t columns = ByKeys ? 0 : columns_in(launch.key_mask, frame, keys, fragment);
    WINDOW_MATMUL_UNROLL
    for (int i = 0; i < 4; ++i)
      if (((ByKeys ? rows >> i / 2 : columns >> i % 2) & 1) == 0) scores[i] = minus_infinity<Sum>();
  });
}

WINDOW_MATMUL_DEVICE bool in_window(const Band& band, index_t dilation, index_t query, index_t key) {
  const index_t offset = key - query - band.shift, taps = dilation == 1 ? offset : offset / dilation;
  return (dilation == 1 || offset % dilation == 0) && -band.left <= taps && taps <= band.right;
}

// Of a tile beyond the band: pairs of which one is a global token, and which the window does not hold.
template <bool ByKeys, class Sum, int Fragments>
WINDOW_MATMUL_DEVICE void mask_beyond(Sum (&s)[Fragments][4], const AttentionLaunch& launch, const Frame<ByKeys>& frame) {
  const AttentionItem& item = frame.item;
  const Range keys = keys_there<ByKeys>(item);
  const std::uint32_t rows = rows_in(launch.globals, frame, keys);
  const bool symmetric = item.has_global_queries();
  for_each_fragment(s, [&](Sum(&scores)[4], int fragment) {
    const std::uint32_t columns = columns_in(launch.globals, frame, keys, fragment);
    WINDOW_MATMUL_UNROLL
    for (int i = 0; i < 4; ++i) {
      const index_t query = frame.query(i / 2, 2 * fragment + i % 2), key = frame.key(i / 2, 2 * fragment + i % 2);
      const bool of_row = (rows >> i / 2 & 1) != 0, of_column = (columns >> i % 2 & 1) != 0;
      const bool by_key = (ByKeys ? of_row : of_column) && (item.band.right > 0 || key <= query + item.band.shift);
      const bool by_query = symmetric && (ByKeys ? of_column : of_row);
      const bool exists = query < item.band.rows && key < item.band.cols;
      if (!exists || !(by_key || by_query) || in_window(item.band, launch.dilation, query, key)) scores[i] = minus_infinity<Sum>();
    }
  });
}

// ---- bias -----------------------------------------------------------------------------------------------------------------------------

template <class E, class Sum>
WINDOW_MATMUL_DEVICE Sum extra_at(std::uintptr_t address, index_t offset, bool is_f32) {  // an element of bias or sinks
  if constexpr (sizeof(E) != 4) {
    if (is_f32) return load_global<float>(address + std::uintptr_t(offset) * 4);
  }
  return widen(load_global<E>(address + std::uintptr_t(offset) * sizeof(E)));
}

// f(score, offset of its slot in the bias of this head, in elements) for pairs in the window, of a tile inside the band.
template <bool ByKeys, class Sum, int Fragments, class F>
WINDOW_MATMUL_DEVICE void for_each_slot(Sum (&s)[Fragments][4], const Strided& bias, const Frame<ByKeys>& frame, index_t head, F&& f) {
  const AttentionItem& item = frame.item;
  const Band& part = item.part;
  const index_t first = times(item.batch, bias.batch) + times(head, bias.head);
  const index_t queries_there = ByKeys ? item.columns_there.begin : item.rows_there.begin;
  for_each_fragment(s, [&](Sum(&scores)[4], int fragment) {
    WINDOW_MATMUL_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int h = i / 2, n = 2 * fragment + i % 2;
      const index_t row = frame.row(h), column = frame.column(n);
      const bool exists = item.rows.contains(row) && row < part.rows;
      if (!exists || !part.contains(row, column)) continue;
      const index_t slot = ByKeys ? part.right - (part.slot(row, column) - part.left) : part.slot(row, column);
      f(scores[i], first + times(queries_there + frame.query(h, n), bias.row) + times(slot, bias.column));
    }
  });
}

template <class E, bool ByKeys, class Sum, int Fragments>
WINDOW_MATMUL_DEVICE void add_bias(Sum (&s)[Fragments][4], const AttentionLaunch& launch, const Frame<ByKeys>& frame, index_t head) {
  for_each_slot<ByKeys>(s, launch.bias, frame, head, [&](Sum& score, index_t offset) {
    const Sum bias = extra_at<E, Sum>(launch.bias.address, offset, launch.bias_is_f32);
    score = bias == minus_infinity<Sum>() ? bias : fused_multiply_add(bias, static_cast<Sum>(kLog2E), score);  // hides whatever was there
  });
}

// ---- dropout --------------------------------------------------------------------------------------------------------------------------

WINDOW_MATMUL_DEVICE std::uint64_t seed_of(const AttentionLaunch& launch) {
  return launch.seed_there.address == 0 ? launch.seed : load_global<std::uint64_t>(launch.seed_there.address);
}

// Number `first + position` of a list of places; where there is no such query or key, the position.
WINDOW_MATMUL_DEVICE index_t place_of(std::uintptr_t places, index_t first, index_t position, index_t count) {
  if (position < 0 || position >= count) return position;
  return load_global<std::int64_t>(places + static_cast<std::uintptr_t>(first + position) * sizeof(std::int64_t));
}

// Where dropout draws for a pair: at its place, or where that stands in a larger call. (What is forgotten keeps what is rarely needed out
// of the registers of a loop.)
template <bool ByKeys>
WINDOW_MATMUL_DEVICE void set_places(const AttentionLaunch& launch, const AttentionItem& item, index_t* query, index_t* key) {
  if (launch.query_places == 0) return;
  index_t batch = item.batch;
  forget(batch);
  const index_t first = times(batch, launch.band.rows) + (ByKeys ? item.columns_there : item.rows_there).begin;
  *query = place_of(launch.query_places, first, *query, item.band.rows);
  *key = place_of(launch.key_places, (ByKeys ? item.rows_there : item.columns_there).begin, *key, item.band.cols);
}
WINDOW_MATMUL_DEVICE std::uint32_t sequence_of_draws(const AttentionLaunch& launch, index_t sequence) {
  if (launch.sequence_places != 0) sequence = place_of(launch.sequence_places, 0, sequence, launch.sequences);
  return static_cast<std::uint32_t>(sequence);
}

// f(weight) where dropout does not keep it. Two neighbouring keys of a row mostly have their words from one draw.
template <bool ByKeys, class Sum, int Fragments, class F>
WINDOW_MATMUL_DEVICE void for_each_dropped(Sum (&weights)[Fragments][4], const AttentionLaunch& launch, const Frame<ByKeys>& frame,
                                           index_t head, std::uint64_t seed, F&& f) {
  const std::uint32_t sequence = sequence_of_draws(launch, frame.item.sequence);
  for_each_fragment(weights, [&](Sum(&pairs)[4], int fragment) {
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      PhiloxWords words{};
      index_t drawn = -1;
      WINDOW_MATMUL_UNROLL
      for (int e = 0; e < 2; ++e) {
        index_t query = frame.query(h, 2 * fragment + e), key = frame.key(h, 2 * fragment + e);
        set_places<ByKeys>(launch, frame.item, &query, &key);
        if (ByKeys || e == 0 || key >> 2 != drawn) words = dropout_words(seed, sequence, head, query, key), drawn = key >> 2;
        const std::uint32_t low = (key & 1) != 0 ? words.word[1] : words.word[0], high = (key & 1) != 0 ? words.word[3] : words.word[2];
        if (((key & 2) != 0 ? high : low) < launch.threshold) f(pairs[2 * h + e]);
      }
    }
  });
}

}  // namespace window_matmul::cuda
