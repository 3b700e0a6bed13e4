// src/cpu/kernels/band_out.inl.hpp: S = band(Q Kt): a[q, slot(q, k)] = sum_n x(q, n) y(k, n), the fill in slots without a key.
//
//   keys ->   [ packed: Kt of up to block_keys keys, N x keys ]     1. Kt is packed once for all query rows of the block: then keys are
//   row tile  ....eeIIIIIIIIIIIIIIIIIIIIee........                     lanes, and band rows, contiguous in memory, are stored whole.
//   row tile  ........eeIIIIIIIIIIIIIIIIIIIIee....                  2. Each row tile walks the keys that one of its rows sees.
//                     e: edge chunk, stored row by row              3. Sums are independent, so nothing is masked but the stores.
#pragma once

#include <type_traits>

#include "cpu/kernels/copy.inl.hpp"
#include "cpu/kernels/tile.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct BandOut {
  using T = typename S::Scalar;
  static constexpr bool kSameType = std::is_same_v<E, T>;

  const Block& block;
  const Matrix2<const E> q{block.x}, k{block.y};
  const Matrix2<E> out{block.out};
  // Scratch: packed Kt [N][ld], one row tile of widened queries [kTileRows][N], one chunk [kTileRows][chunk].
  const index_t ld = packed_stride(block.block_keys);
  T* const packed = static_cast<T*>(block.scratch);
  T* const queries = packed + block.dim * ld;
  T* const chunk = queries + (kSameType ? 0 : kMaxTileRows * block.dim);

  // An odd number of cache lines and room for a vector behind the last key: the N rows spread over all sets of the caches.
  static index_t packed_stride(index_t keys) {
    const index_t line = kCacheLine / static_cast<index_t>(sizeof(T)), lines = ceil_div(keys + kMaxLanes, line);
    return (lines | 1) * line;
  }

  void run() {
    for (index_t row = block.rows.begin; row < block.rows.end; ++row) fill(row);
    for_each_key_tile(block.band, block.rows, block.block_keys, [&](Range keys, bool) {
      pack_transposed<S>(k, keys, block.dim, packed, ld);
      for_each_row_tile<S>(block.rows, [&]<int Rows>(index_t row) { row_tile<Rows>(row, keys); });
    });
  }

  void fill(index_t row) {
    const Range slots = block.band.slots(row);
    const E value = narrow<E>(static_cast<T>(block.fill));
    E* to = out.at(row, 0);
    fill_row(value, to, out.col_stride, {0, slots.begin});
    fill_row(value, to, out.col_stride, {slots.end, block.band.width()});
  }

  Scalars<T> query_rows(index_t row, index_t rows) {
    if constexpr (kSameType) return {q.at(row, 0), q.row_stride, q.col_stride};
    pack<S>(q, {row, row + rows}, {0, block.dim}, queries, block.dim);
    return {queries, block.dim, 1};
  }

  template <int Rows>
  void row_tile(index_t row, Range packed_keys) {
    const Range tile{row, row + Rows};
    const Range any = block.band.keys_any(tile).intersect(packed_keys), all = block.band.keys_all(tile);
    if (any.empty()) return;
    const Scalars<T> scalars = query_rows(row, Rows);
    constexpr index_t kChunk = S::kTileVecs * S::kLanes;
    for (index_t key = any.begin; key < any.end; key += kChunk) {
      const Range keys{key, smaller(key + kChunk, any.end)};
      const Vectors<T> vectors{packed + (key - packed_keys.begin), ld};
      with_vecs<S::kTileVecs>(ceil_div(keys.size(), S::kLanes), [&]<int Vecs>() {
        const bool whole = out.col_stride == 1 && all.contains({key, key + Vecs * S::kLanes});
        if (whole) {
          sum_products<Rows, Vecs>(scalars, vectors, out.at(row, block.band.slot(row, key)), out.row_stride - 1);
        } else {
          sum_products<Rows, Vecs>(scalars, vectors, chunk, Vecs * S::kLanes);
          copy_edge<Rows, Vecs>(row, keys);
        }
        *block.multiply_adds += Rows * Vecs * S::kLanes * block.dim;
      });
    }
  }

  // Not inlined: the loop needs all registers for itself.
  template <int Rows, int Vecs, class To>
  [[gnu::noinline]] void sum_products(Scalars<T> scalars, Vectors<T> vectors, To* to, index_t to_stride) const {
    Tile<S, Rows, Vecs> sums;
    sums.clear();
    sums.accumulate(scalars, vectors, block.dim);
    sums.store(to, to_stride);
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
