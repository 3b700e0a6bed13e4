// src/cpu/kernels/pairs/tiles.inl.hpp: the products of fused attention in bf16, all on tiles: sums (16 x 16) += A (16 x 32) B (32 x 16).
//
//   A   16 rows of 32 bf16, as rows of a tensor lie in memory
//   B   16 rows of 16 pairs: row i holds steps 2i and 2i + 1 of each column
//
//   scores  S^T  (keys x queries)    A k rows, in place       B pairs of q          steps D       lanes are queries, as everywhere
//   output  O^T  (Dv x queries)      A vT                     B pairs of P          steps keys    pairs of P are two rows of S^T
//   d_P^T        (keys x queries)    A v rows, in place       B pairs of d_out      steps Dv
//   d_v, d_k     (keys x D)          A P, d_S                 B pairs of d_out, q   steps queries
//   d_q          (queries x D)       A d_ST                   B pairs of k          steps keys
//
// P and d_S are sums of two bf16 each, the high part and what it leaves: 15 bits and more. The products of both are added.
#pragma once

#include "cpu/kernels/attention/tile.inl.hpp"

namespace window_matmul::cpu {
namespace {

inline constexpr index_t kTile = 16, kStep = kPairStep;  // rows or columns of a tile; steps of a product

struct TileOperand {  // in bytes: from a row to the next, from a tile to that of the next step, to its neighbour's, to that of the low part
  const void* data;
  index_t row, step, neighbour, low = 0;

  WINDOW_MATMUL_INLINE const char* at(index_t s, index_t n) const { return static_cast<const char*>(data) + s * step + n * neighbour; }
  WINDOW_MATMUL_INLINE TileOperand from(index_t s, index_t n) const { return {at(s, n), row, step, neighbour, low}; }
  WINDOW_MATMUL_INLINE TileOperand low_part() const { return {static_cast<const char*>(data) + low, row, step, neighbour, 0}; }
};

// A where the tensor is: rows of bf16.
WINDOW_MATMUL_INLINE TileOperand rows_in_place(const void* first_row, index_t stride) {
  return {first_row, 2 * stride, 2 * kStep, 2 * stride * kTile};
}
// B of pairs [steps / 2][columns].
WINDOW_MATMUL_INLINE TileOperand pairs_in_rows(const float* pairs, index_t columns) {
  return {pairs, 4 * columns, 4 * columns * kTile, 4 * kTile};
}

// Rows x Cols tiles of sums. Not inlined: each is a loop of its own. start: clear or keep.
template <HasTiles S, int Rows, int Cols>
[[gnu::noinline]] void add_tiles(const TileOperand& a, const TileOperand& b, index_t steps, const Sums<float>& sums) {
  using Tiles = typename S::Tiles;
  const auto each = [](auto&& f) __attribute__((always_inline)) {
    f.template operator()<0, 0>();
    if constexpr (Cols > 1) f.template operator()<0, 1>();
    if constexpr (Rows > 1) f.template operator()<1, 0>();
    if constexpr (Rows > 1 && Cols > 1) f.template operator()<1, 1>();
  };
  const auto at = [&](int r, int c) { return sums.data + r * kTile * sums.stride + c * kTile; };
  if (sums.start == Start::clear)
    each([]<int R, int C>() __attribute__((always_inline)) { Tiles::template zero<2 * R + C>(); });
  else
    each([&]<int R, int C>() __attribute__((always_inline)) { Tiles::template load<2 * R + C>(at(R, C), 4 * sums.stride); });
  const auto add = [steps](const TileOperand& x, const TileOperand& y) __attribute__((always_inline)) {
    for (index_t s = 0; s < steps; ++s) {
      Tiles::template load<4>(x.at(s, 0), x.row);
      Tiles::template load<6>(y.at(s, 0), y.row);
      Tiles::template dot<0, 4, 6>();
      if constexpr (Cols > 1) Tiles::template load<7>(y.at(s, 1), y.row), Tiles::template dot<1, 4, 7>();
      if constexpr (Rows > 1) Tiles::template load<5>(x.at(s, 1), x.row), Tiles::template dot<2, 5, 6>();
      if constexpr (Rows > 1 && Cols > 1) Tiles::template dot<3, 5, 7>();
    }
  };
  add(a, b);
  if (a.low != 0 || b.low != 0) add(a.low_part(), b.low_part());
  each([&]<int R, int C>() __attribute__((always_inline)) { Tiles::template store<2 * R + C>(at(R, C), 4 * sums.stride); });
}

// The same for a run-time number of tiles, 1 or 2 both ways. Returns the multiply-adds.
template <HasTiles S>
[[gnu::always_inline]] inline index_t add_tiles(index_t rows, index_t cols, const TileOperand& a, const TileOperand& b, index_t steps,
                                                const Sums<float>& sums) {
  if (rows == 1)
    cols == 1 ? add_tiles<S, 1, 1>(a, b, steps, sums) : add_tiles<S, 1, 2>(a, b, steps, sums);
  else
    cols == 1 ? add_tiles<S, 2, 1>(a, b, steps, sums) : add_tiles<S, 2, 2>(a, b, steps, sums);
  return (a.low != 0 || b.low != 0 ? 2 : 1) * rows * cols * steps * kTile * kTile * kStep;
}

// Two columns of tiles of a product of one or two steps: B stays in registers while `tiles` rows of tiles go by. before_each: called so
// often. Nothing is split.
template <HasTiles S, int Steps, class F>
[[gnu::noinline]] void multiply_rows(const TileOperand& a, const TileOperand& b, index_t tiles, const Sums<float>& sums, F&& before_each) {
  using Tiles = typename S::Tiles;
  Tiles::template load<4>(b.at(0, 0), b.row), Tiles::template load<5>(b.at(0, 1), b.row);
  if constexpr (Steps > 1) Tiles::template load<6>(b.at(1, 0), b.row), Tiles::template load<7>(b.at(1, 1), b.row);
  for (index_t tile = 0; tile < tiles; ++tile) {
    before_each();
    float* const to = sums.data + tile * kTile * sums.stride;
    Tiles::template zero<0>(), Tiles::template zero<1>();
    Tiles::template load<2>(a.at(0, tile), a.row), Tiles::template dot<0, 2, 4>(), Tiles::template dot<1, 2, 5>();
    if constexpr (Steps > 1) Tiles::template load<3>(a.at(1, tile), a.row), Tiles::template dot<0, 3, 6>(), Tiles::template dot<1, 3, 7>();
    Tiles::template store<0>(to, 4 * sums.stride), Tiles::template store<1>(to + kTile, 4 * sums.stride);
  }
}

}  // namespace
}  // namespace window_matmul::cpu
