// src/cpu/kernels/band/out.inl.hpp: S = band(Q Kt): a[q, slot(q, k)] = sum_n x(q, n) y(k, n), the fill in slots without a key.
//
//   keys ->   [ packed: Kt of up to block_keys keys, N x keys ]     1. Kt is packed once for all query rows of the block: then keys are
//   row tile  ....eeIIIIIIIIIIIIIIIIIIIIee........                     lanes, and band rows, contiguous in memory, are stored whole.
//   row tile  ........eeIIIIIIIIIIIIIIIIIIIIee....                  2. Each row tile walks the keys that one of its rows sees.
//                     e: edge chunk, stored row by row              3. Sums are independent, so nothing is masked but the stores.
#pragma once

#include <type_traits>

#include "cpu/kernels/band/pairs.inl.hpp"
#include "cpu/kernels/tile.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct BandOut {
  using T = typename S::Scalar;
  static constexpr bool kSameType = std::is_same_v<E, T>, kPairs = kInPairs<S, E>;
  static constexpr index_t kStep = kPairs ? 2 : 1;  // numbers of a row to a step
  using A = std::conditional_t<kPairs, E, T>;  // of queries, as they are multiplied

  const Block& block;
  const Matrix2<const E> q{block.x}, k{block.y};
  const Matrix2<E> out{block.out};
  // Scratch: packed Kt [depth / kStep][ld], one row tile of copied queries [kTileRows][depth], one chunk [kTileRows][kChunk], and where the
  // head dim is taken in several steps their sums [rows][sums_stride].
  static constexpr index_t kChunk = S::kTileVecs * S::kLanes;
  const index_t depth = smaller(block.dim, kPackedDepth);
  const index_t ld = packed_stride(block.block_keys), sums_stride = block.block_keys + kChunk;
  T* const packed = static_cast<T*>(block.scratch);
  T* const queries = packed + depth * ld;
  T* const chunk = queries + (kSameType ? 0 : kMaxTileRows * depth);
  T* const sums = chunk + kMaxTileRows * kChunk;

  // An odd number of cache lines and room for a vector behind the last key: the N rows spread over all sets of the caches.
  static index_t packed_stride(index_t keys) {
    const index_t line = kCacheLine / static_cast<index_t>(sizeof(T)), lines = ceil_div(keys + kMaxLanes, line);
    return (lines | 1) * line;
  }

  void run() {
    for (index_t row = block.rows.begin; row < block.rows.end; ++row) fill(row);
    for_each_key_tile(block.band, block.rows, block.block_keys, [&](Range keys, bool) {
      Range ns{0, depth};
      do {
        if constexpr (kPairs)
          pack_transposed_in_pairs<S>(k, keys, ns, packed, ld);
        else
          pack_transposed<S>(k, keys, ns, packed, ld);
        for_each_row_tile<S>(block.rows, [&]<int Rows>(index_t row) { row_tile<Rows>(row, keys, ns); });
        ns = {ns.end, smaller(ns.end + depth, block.dim)};
      } while (!ns.empty());
    });
  }

  void fill(index_t row) {
    const Range slots = block.band.slots(row);
    const E value = narrow<E>(static_cast<T>(block.fill));
    E* to = out.at(row, 0);
    fill_row(value, to, out.col_stride, {0, slots.begin});
    fill_row(value, to, out.col_stride, {slots.end, block.band.width()});
  }

  // The queries of the next tile, and keys that the next block sees and this one does not.
  template <int Rows>
  [[gnu::always_inline]] void prefetch_next(index_t row, Range ns) const {
    prefetch_rows(q, Range{row + Rows, row + 2 * Rows}.intersect({0, block.band.rows}), ns);
    const index_t key = block.band.last(row + block.rows.size());
    prefetch_rows(k, Range{key, key + Rows}.intersect({0, block.band.cols}), ns);
  }

  Scalars<A> query_rows(index_t row, index_t rows, Range ns) {
    if constexpr (kSameType) return {q.at(row, ns.begin), q.row_stride, q.col_stride};
    if constexpr (kPairs) {
      if (q.col_stride == 1 && ns.size() % 2 == 0) return {q.at(row, ns.begin), q.row_stride, 2};
      bf16* const copied = reinterpret_cast<bf16*>(queries);
      const index_t width = round_up(ns.size(), 2);
      for (index_t r = 0; r < rows; ++r) copy_row(q.at(row + r, ns.begin), q.col_stride, ns.size(), copied + r * width, width);
      return {copied, width, 2};
    } else {
      pack<S>(q, {row, row + rows}, ns, queries, depth);
      return {queries, depth, 1};
    }
  }

  template <int Rows>
  void row_tile(index_t row, Range packed_keys, Range ns) {
    const Range tile{row, row + Rows};
    const Range any = block.band.keys_any(tile).intersect(packed_keys), all = block.band.keys_all(tile);
    if (any.empty()) return;
    prefetch_next<Rows>(row, ns);
    const Scalars<A> scalars = query_rows(row, Rows, ns);
    const index_t steps = ceil_div(ns.size(), kStep);
    for (index_t key = any.begin; key < any.end; key += kChunk) {
      const Range keys{key, smaller(key + kChunk, any.end)};
      const Vectors<T> vectors{packed + (key - packed_keys.begin), ld};
      const index_t slot = block.band.slot(row, key);
      prefetch_rows(out, {row + Rows, row + 2 * Rows}, {slot, slot + kChunk});
      T* const kept = sums + (row - block.rows.begin) * sums_stride + (key - packed_keys.begin);
      const T* const from = ns.begin == 0 ? nullptr : kept;
      with_vecs<S::kTileVecs>(ceil_div(keys.size(), S::kLanes), [&]<int Vecs>() {
        constexpr index_t width = Vecs * S::kLanes;
        if (ns.end < block.dim) {
          sum_products<Rows, Vecs>(scalars, vectors, steps, from, kept, sums_stride);
        } else if (out.col_stride == 1 && all.contains({key, key + width})) {
          sum_products<Rows, Vecs>(scalars, vectors, steps, from, out.at(row, slot), out.row_stride - 1);
        } else {
          sum_products<Rows, Vecs>(scalars, vectors, steps, from, chunk, width);
          copy_edge<Rows, Vecs>(row, keys);
        }
        *block.multiply_adds += Rows * width * steps * kStep;
      });
    }
  }

  // Adds to the sums at `from` (zeros if null). Not inlined: the loop needs all registers for itself.
  template <int Rows, int Vecs, class To>
  [[gnu::noinline]] void sum_products(Scalars<A> scalars, Vectors<T> vectors, index_t steps, const T* from, To* to,
                                      index_t to_stride) const {
    Tile<S, Rows, Vecs> tile;
    if (from == nullptr)
      tile.clear();
    else
      tile.load(from, sums_stride);
    tile.accumulate(scalars, vectors, steps);
    tile.store(to, to_stride);
  }

  template <int Rows, int Vecs>
  void copy_edge(index_t row, Range keys) const {
    constexpr index_t width = Vecs * S::kLanes;
    for (int r = 0; r < Rows; ++r) {
      const Range seen = block.band.keys(row + r).intersect(keys);
      if (seen.empty()) continue;
      E* to = out.at(row + r, block.band.slot(row + r, seen.begin));
      write_row<S>(chunk + r * width + (seen.begin - keys.begin), seen.size(), to, out.col_stride);
    }
  }
};

template <Simd S, class E>
void band_out(const Block& block) {
  BandOut<S, E>{block}.run();
}

}  // namespace
}  // namespace window_matmul::cpu
