// src/cuda/kernels/attention/walk.cuh: which tiles of columns an item visits: those of the band, from its first column on; then, beyond the
// band, those where a global token lies, or all of them where the item's own rows are global.
#pragma once

#include "cuda/kernels/attention/scores.cuh"

namespace window_matmul::cuda {

// Whether f(i) for some i in [0, count): each lane asks for its share, and all warps come to the same answer without a barrier.
template <class F>
WINDOW_MATMUL_DEVICE bool any_of(index_t count, F&& f) {
  std::uint32_t found = 0;
  WINDOW_MATMUL_NO_UNROLL
  for (index_t i = lane_index(); i < count; i += kWarp) found |= std::uint32_t{f(i)};
  WINDOW_MATMUL_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) found |= shuffle_xor(found, mask);
  return found != 0;
}

template <bool ByKeys, int Columns>
struct Walk {
  const AttentionLaunch& launch;
  const AttentionItem& item;
  Range columns;  // of the band, in the walk: those of this item's part of the keys
  index_t beyond_begin = 0;  // likewise
  index_t beyond_end = 0;  // tiles beyond the band are below this position
  bool all_beyond = false;  // the item's own rows reach every column

  template <bool WithGlobals>
  WINDOW_MATMUL_DEVICE void start() {
    const Range rows = item.rows.intersect({0, item.part.rows});
    columns = rows.empty() ? Range{} : part_of(item.part.keys_any(rows));
    beyond_begin = beyond_end = 0, all_beyond = false;
    if constexpr (WithGlobals) {
      if (!launch.globals.is_used()) return;
      const Range keys = keys_there<ByKeys>(item);
      const bool symmetric = item.has_global_queries();
      if (ByKeys || symmetric)
        all_beyond = any_of(rows.size(), [&](index_t r) { return holds(launch.globals, item, keys, item.row_position(rows.begin + r)); });
      beyond_end = ByKeys ? item.band.rows : item.band.cols;
      if (ByKeys && !symmetric && !all_beyond) beyond_end = 0;
      if (launch.globals.bytes == 0 && !all_beyond) beyond_end = smaller(beyond_end, launch.globals.count);
      const Range beyond = part_of({0, beyond_end});
      beyond_begin = beyond.begin, beyond_end = beyond.end;
    }
  }

  WINDOW_MATMUL_DEVICE bool is_end(const ColumnTile& tile) const { return tile.beyond && tile.first >= beyond_end; }
  // Of no tile: the one after it is the first.
  WINDOW_MATMUL_DEVICE ColumnTile before_first() const { return {columns.begin - Columns, false}; }
  WINDOW_MATMUL_DEVICE ColumnTile first() const { return after(before_first()); }
  WINDOW_MATMUL_DEVICE ColumnTile after(const ColumnTile& tile) const {
    if (!tile.beyond && tile.first + Columns < columns.end) return {tile.first + Columns, false};
    return from_beyond(tile.beyond ? tile.first + Columns : beyond_begin);
  }
  // Whether a column of a tile is to be loaded: others are zeros.
  WINDOW_MATMUL_DEVICE bool has(const ColumnTile& tile, int column) const {
    const index_t c = tile.first + column;
    if (!tile.beyond) return columns.contains(c);
    return c < beyond_end && (all_beyond || holds(launch.globals, item, keys_there<ByKeys>(item), c));
  }

 private:
  // Whole tiles for each part, as many for each as for any other but the last ones.
  WINDOW_MATMUL_DEVICE Range part_of(Range all) const {
    if (launch.splits == 1) return all;
    const index_t each = ceil_div(ceil_div(all.size(), Columns), launch.splits) * Columns, begin = all.begin + item.split * each;
    return {smaller(begin, all.end), smaller(begin + each, all.end)};
  }
  WINDOW_MATMUL_DEVICE ColumnTile from_beyond(index_t first) const {
    const auto is_wanted = [&] { return any_of(Columns, [&](index_t c) { return has({first, true}, int(c)); }); };
    while (first < beyond_end && !is_wanted()) first += Columns;
    return {first, true};
  }
};

}  // namespace window_matmul::cuda
