// src/cpu/kernels/band/in.inl.hpp: O = S V, and C = St X by the same text: out(row, n) = sum over the row's columns c of x(row, c) y(c, n).
//
//            columns ->                          S is seen in (row, column) coordinates, where band storage is an ordinary strided matrix:
//   row tile  L I I I I I I I I R 0 0              band_in             row = query, column = key:   row stride W - 1, column stride 1
//             0 L I I I I I I I I R 0              band_in_transposed  row = key,   column = query: row stride 1,     column stride W - 1
//             0 0 L I I I I I I I I R            The triangles L and R of a row tile are packed with zeros around them, so that a tile
//             [edge][ inner  ][edge]             needs no mask. Zero times infinity is NaN: if a sum is not finite, the tile is done again
//                                                row by row, each with the columns it sees and no others.
#pragma once

#include <type_traits>

#include "cpu/kernels/band/pairs.inl.hpp"
#include "cpu/kernels/tile.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct BandIn {
  using T = typename S::Scalar;
  static constexpr bool kSameType = std::is_same_v<E, T>, kPairs = kInPairs<S, E>;
  static constexpr index_t kStep = kPairs ? 2 : 1;  // columns of the band to a step
  using A = std::conditional_t<kPairs, E, T>;  // of the band, as it is multiplied
  static_assert(kGroupRows % S::kTileRows == 0);
  static constexpr index_t kEdge = 2 * kMaxTileRows;  // an edge has fewer columns than this, also where the window is narrower than a tile

  static constexpr index_t kSlice = 64;  // columns between two prefetches

  const Block& block;
  const Matrix2<const E> band{block.x}, y{block.y};
  const Matrix2<E> out{block.out};
  const index_t width = round_up(smaller(block.dim, kPackedColumns), kMaxLanes);  // of a row of sums and of packed y
  const bool in_place = kSameType && y.col_stride == 1 && block.dim % S::kLanes == 0;
  const bool single = block.band.keys_any(block.rows).size() <= block.block_keys;  // all columns at once: no sums to keep
  const bool by_groups = band.row_stride == 1 && band.col_stride != 1;
  Range group{};  // the columns in packed_scalars, if by_groups
  // Scratch: sums [rows][width], packed y [block_keys / kStep][width], packed scalars [block_keys / kStep][kGroupStride] behind a gap, one
  // row of scalars [block_keys], two edges, one tile of output.
  T* const sums = static_cast<T*>(block.scratch);
  T* const packed_y = sums + block.rows.size() * width;
  T* const packed_scalars = packed_y + block.block_keys * width + kMaxLanes;
  T* const line = packed_scalars + block.block_keys * kGroupStride;
  T* const edges = line + block.block_keys;
  T* const staging = edges + 2 * kEdge * kMaxTileRows;

  struct Segment {  // columns of the band that a tile takes at a time
    Scalars<A> scalars;
    Range columns;
  };

  void run() {
    for (index_t n = 0; n < block.dim; n += kPackedColumns) run_columns({n, smaller(n + kPackedColumns, block.dim)});
  }

  void run_columns(Range ns) {
    if (!single || block.band.keys_any(block.rows).empty()) fill_row(T{0}, sums, 1, {0, block.rows.size() * width});
    for_each_key_tile(block.band, block.rows, block.block_keys, [&](Range columns, bool) {
      if constexpr (kPairs)
        pack_in_pairs<S>(y, columns, ns, packed_y, width);
      else if (!in_place)
        pack<S>(y, columns, ns, packed_y, width);
      for_each_row_tile<S>(block.rows, [&]<int Rows>(index_t row) { row_tile<Rows>(row, columns, ns); });
    });
    if (single && !block.band.keys_any(block.rows).empty()) return;
    for (index_t row = block.rows.begin; row < block.rows.end; ++row)
      write_row<S>(sums + (row - block.rows.begin) * width, ns.size(), out.at(row, ns.begin), out.col_stride);
  }

  template <int Rows>
  void row_tile(index_t row, Range columns, Range ns) {
    Segment segments[3];
    const int count = cut<Rows>(row, columns, segments);
    if (count == 0 && !single) return;
    prefetch_next<Rows>(row, columns, ns);
    constexpr index_t kPanel = S::kTileVecs * S::kLanes;
    for (index_t n = ns.begin; n < ns.end; n += kPanel) {
      const Range panel{n, smaller(n + kPanel, ns.end)};
      with_vecs<S::kTileVecs>(ceil_div(panel.size(), S::kLanes), [&]<int Vecs>() {
        if (!sum_products<Rows, Vecs>(segments, count, row, columns, panel, ns))
          for (int r = 0; r < Rows; ++r) exact_row<Vecs>(row + r, columns, panel, ns);
        for (int i = 0; i < count; ++i) *block.multiply_adds += Rows * Vecs * S::kLanes * segments[i].columns.size();
      });
    }
  }

  // What the next tile touches and this one does not: the last rows of y and its output.
  template <int Rows>
  [[gnu::always_inline]] void prefetch_next(index_t row, Range columns, Range ns) const {
    const Range next = Range{row + Rows, row + 2 * Rows}.intersect({0, block.band.rows});
    if (next.empty()) return;
    const index_t column = block.band.last(row + Rows);
    if (in_place) prefetch_rows(y, Range{column, column + Rows}.intersect(columns), ns);
    if (single) prefetch_rows(out, next, ns);
  }

  // False, with nothing written, where a sum is not finite. Not inlined: the loop needs all registers for itself.
  template <int Rows, int Vecs>
  [[gnu::noinline]] bool sum_products(const Segment* segments, int count, index_t row, Range columns, Range panel, Range ns) const {
    Tile<S, Rows, Vecs> tile;
    start(tile, row, panel.begin - ns.begin);
    for (int i = 0; i < count; ++i) {
      Segment rest = segments[i];
      while (!rest.columns.empty()) {  // in slices, and with each the same slice of the next tile's rows of the band
        const Range slice{rest.columns.begin, smaller(rest.columns.begin + kSlice, rest.columns.end)};
        prefetch_rows(band, {row + Rows, row + 2 * Rows}, slice);
        tile.accumulate(rest.scalars, vectors(slice, columns, panel.begin, ns), slice.size() / kStep);
        rest.scalars.data += slice.size() / kStep * rest.scalars.step_stride;
        rest.columns.begin = slice.end;
      }
    }
    if (!tile.all_finite()) return false;
    finish(tile, row, panel, ns);
    return true;
  }

  Vectors<T> vectors(Range columns, Range packed, index_t n, Range ns) const {
    if constexpr (kSameType)
      if (in_place) return {y.at(columns.begin, n), y.row_stride};
    return {packed_y + (columns.begin - packed.begin) / kStep * width + (n - ns.begin), width};
  }

  // Left edge, inner columns and right edge of a row tile, as far as they are not empty.
  template <int Rows>
  int cut(index_t row, Range columns, Segment* segments) {
    const Range tile{row, row + Rows}, some = block.band.keys_any(tile).intersect(columns);
    const Range any = whole_steps_around(some, columns.begin);
    Range inner = whole_steps_in(block.band.keys_all(tile).intersect(some), columns.begin);
    if (inner.empty()) inner = {any.end, any.end};
    int count = 0;
    const auto add = [&](Range part, Scalars<A> scalars) {
      if (!part.empty()) segments[count++] = {scalars, part};
    };
    const Range left{any.begin, inner.begin}, right{inner.end, any.end};
    add(left, pack_rows<Rows>(row, left, edges));
    add(inner, inner_scalars<Rows>(row, inner, columns));
    add(right, pack_rows<Rows>(row, right, edges + kEdge * kMaxTileRows));
    return count;
  }

  // Steps are counted from the first packed column.
  static Range whole_steps_around(Range columns, index_t origin) {
    if (columns.empty()) return columns;
    return {columns.begin - (columns.begin - origin) % kStep, origin + round_up(columns.end - origin, kStep)};
  }
  static Range whole_steps_in(Range columns, index_t origin) {
    if (columns.empty()) return columns;
    return {origin + round_up(columns.begin - origin, kStep), columns.end - (columns.end - origin) % kStep};
  }

  template <int Rows>
  Scalars<A> inner_scalars(index_t row, Range inner, Range columns) {
    if (Rows == S::kTileRows && by_groups) {
      const index_t row_in_group = (row - block.rows.begin) % kGroupRows;
      if (row_in_group == 0) pack_group({row, smaller(row + kGroupRows, block.rows.end)}, columns);
      const T* const from = packed_scalars + (inner.begin - group.begin) / kStep * kGroupStride + row_in_group;
      return {reinterpret_cast<const A*>(from), kStep, kStep * kGroupStride};
    }
    if constexpr (kSameType) return {band.at(row, inner.begin), band.row_stride, band.col_stride};
    if constexpr (kPairs)
      if (band.col_stride == 1) return {band.at(row, inner.begin), band.row_stride, kStep};
    return pack_rows<Rows>(row, inner, packed_scalars);
  }

  // [Rows][columns]: what each row sees, zeros elsewhere.
  template <int Rows>
  Scalars<A> pack_rows(index_t row, Range columns, T* to) {
    const index_t length = columns.size();
    for (int r = 0; r < Rows && length > 0; ++r) {
      const Range seen = block.band.keys(row + r).intersect(columns);
      T* to_row = to + r * length / kStep;
      if constexpr (kPairs) {
        pair_seen(row + r, columns, seen, to_row);
        continue;
      }
      fill_row(T{0}, to_row, 1, {0, seen.empty() ? length : seen.begin - columns.begin});
      if (seen.empty()) continue;
      read_row<S>(band.at(row + r, seen.begin), band.col_stride, seen.size(), to_row + (seen.begin - columns.begin));
      fill_row(T{0}, to_row, 1, {seen.end - columns.begin, length});
    }
    return {reinterpret_cast<const A*>(to), length, kStep};
  }

  // Pair by pair: what is written in halves makes those wait who read it whole at once.
  void pair_seen(index_t row, Range columns, Range seen, float* to) const {
    const E* from = band.at(row, columns.begin);
    const auto element = [&](index_t c) { return seen.contains(c) ? from[(c - columns.begin) * band.col_stride] : E{}; };
    for (index_t c = columns.begin; c < columns.end; c += 2) *to++ = pair_of(element(c), element(c + 1));
  }

  // packed_scalars [columns of the group][kGroupStride]: for rows that are neighbours in memory, as those of a transposed band are. Each
  // line of it is read once for all tiles of the group: neighbouring columns lie a power of two apart as a rule, and soon push each other
  // out of the caches. Where a row does not see a column there is anything.
  void pack_group(Range rows, Range columns) {
    constexpr index_t lanes = S::kLanes;
    constexpr index_t kAhead = 32;  // columns
    const Matrix2<const E> by_columns{Operand{band.address, band.col_stride, band.row_stride}};
    const index_t slots = block.band.width();
    const Range some = block.band.keys_any(rows).intersect(columns), whole = whole_steps_in(some, columns.begin);
    group = whole_steps_around(some, columns.begin);
    T* to = packed_scalars + (whole.begin - group.begin) / kStep * kGroupStride;
    for (index_t c = whole.begin; c < whole.end; c += kStep, to += kGroupStride) {
      const E* from = band.at(rows.begin, c);
      prefetch_rows(by_columns, {c + kAhead, c + kAhead + kStep}, rows);
      // Of the group's first row in band storage; one more for each row, and one less for the second column of a pair.
      const index_t slot = slots - 1 - block.band.slot(rows.begin, c);
      const index_t first = larger(0, kStep - 1 - slot), end = smaller(rows.size(), slots - slot);
      if (slots < lanes + kStep - 1)
        for (index_t r = first; r < end; ++r) to[r] = scalar_of_group(from + r);
      else  // whole vectors inside the slots of this column; those that stick out of the group write into the gap between two columns
        for (index_t r = first; r < end; r += lanes) {
          const index_t inside = smaller(r, slots - lanes - slot);
          S::store(to + inside, vector_of_group(from + inside));
        }
    }
  }
  T scalar_of_group(const E* from) const {
    if constexpr (kPairs)
      return pair_of(from[0], from[band.col_stride]);
    else
      return widen(*from);
  }
  typename S::Vec vector_of_group(const E* from) const {
    if constexpr (kPairs)
      return S::load_pairs(from, from + band.col_stride);
    else
      return S::load(from);
  }

  template <int Rows, int Vecs>
  void start(Tile<S, Rows, Vecs>& tile, index_t row, index_t column) const {
    if (single)
      tile.clear();
    else
      tile.load(sums + (row - block.rows.begin) * width + column, width);
  }

  template <int Vecs>
  [[gnu::noinline]] void exact_row(index_t row, Range columns, Range panel, Range ns) {
    const Range seen = block.band.keys(row).intersect(columns);
    Tile<S, 1, Vecs> tile;
    start(tile, row, panel.begin - ns.begin);
    if constexpr (kPairs) {  // column by column: of a pair, a row may see one
      fill_row(T{0}, line, 1, {0, Vecs * S::kLanes});
      for (index_t c = seen.begin; c < seen.end; ++c) {
        const T x = widen(*band.at(row, c));
        read_row<S>(y.at(c, panel.begin), y.col_stride, panel.size(), line);
        tile.accumulate(Scalars<T>{&x, 0, 0}, Vectors<T>{line, 0}, 1);
      }
    } else if (!seen.empty()) {
      tile.accumulate(pack_rows<1>(row, seen, line), vectors(seen, columns, panel.begin, ns), seen.size());
    }
    finish(tile, row, panel, ns);
  }

  template <int Rows, int Vecs>
  void finish(const Tile<S, Rows, Vecs>& tile, index_t row, Range panel, Range ns) const {
    if (!single) return tile.store(sums + (row - block.rows.begin) * width + (panel.begin - ns.begin), width);
    if (out.col_stride == 1 && panel.size() == Vecs * S::kLanes) return tile.store(out.at(row, panel.begin), out.row_stride);
    tile.store(staging, Vecs * S::kLanes);
    for (int r = 0; r < Rows; ++r) write_row<S>(staging + r * Vecs * S::kLanes, panel.size(), out.at(row + r, panel.begin), out.col_stride);
  }
};

template <Simd S, class E>
void band_in(const Block& block) {
  BandIn<S, E>{block}.run();
}

}  // namespace
}  // namespace window_matmul::cpu
