// src/cuda/kernels/attention/product.cuh: the products of a warp of fused attention: 16 rows x the columns of a tile, in registers.
//
//   multiply     scores (16 x Columns) = A (16 x depth) B^T      A, B: lines of tiles in shared memory, the head dim along them
//   accumulate   sums (16 x Dim) += scores (16 x Columns) C      C: lines of a tile are the columns of the scores
//
// Lane l of a warp has rows g = l / 4 and g + 8; with t = l % 4 its scores are s[f][2 h + e], row g + 8 h, column 8 f + 2 t + e. So bf16,
// fp16 and TF32 have them from matrix instructions, and give them back as the left factor without leaving the registers; fp32 and fp64 in
// plain multiply-adds keep them alike. Of the sums, lane l has n = 0 .. Dim / 4 - 1 of each of its rows at sums[n / 2][2 h + n % 2].
//
// Groups are 16 columns of the scores: those that no row of the warp sees are neither multiplied nor added.
#pragma once

#include "cuda/kernels/attention/fragments.cuh"
#include "cuda/kernels/attention/shape.hpp"
#include "cuda/kernels/tensor_core_product.cuh"

namespace window_matmul::cuda {

// Of tiles whose lines have Dim elements.
template <class E, int Dim, int Columns, int Line>
struct TensorCoreWarp {
  using Sum = float;
  static constexpr bool kSplits = sizeof(E) == 4;
  static constexpr int kFragments = Columns / 8, kLine = Line, kStep = 32 / sizeof(E);
  using Scores = Sum[kFragments][4];
  using Sums = Sum[Dim / 8][4];
  using Core = TensorCoreProduct<E>;

  // `rows`: the tile of A, of which the warp has the 16 lines from first_row on.
  WINDOW_MATMUL_DEVICE static void multiply(Scores& s, std::uint32_t rows, int first_row, std::uint32_t columns, int depth,
                                            const Groups& groups) {
    const int lane = fresh_lane_index();
    const LaneChunks<kLine> left_chunks(rows, first_row + lane % 16, lane / 16), chunks(columns, lane % 8 + lane / 16 * 8, lane / 8 % 2);
    clear(s);
    WINDOW_MATMUL_UNROLL
    for (int k = 0; k < Dim / kStep; ++k) {
      if (k * kStep >= depth) continue;
      Fragment a;
      load_matrices(a, left_chunks.at(0, 2 * k));
      const typename Core::Factor left(a);
      WINDOW_MATMUL_UNROLL
      for (int g = 0; g < kFragments / 2; ++g) {
        if (!groups.has(g)) continue;
        Fragment b;
        load_matrices(b, chunks.at(16 * g, 2 * k));
        Core::add_two(s[2 * g], s[2 * g + 1], left, typename Core::Factor(b));
      }
    }
  }

  // `width`: columns of C that exist.
  WINDOW_MATMUL_DEVICE static void accumulate(Sums& sums, const Scores& s, std::uint32_t tile, int width, const Groups& groups) {
    WINDOW_MATMUL_UNROLL
    for (int g = 0; g < kFragments / 2; ++g) {
      if (!groups.has(g)) continue;
      if constexpr (kSplits) {
        add_eight(sums, s[2 * g], tile, 16 * g, width);
        add_eight(sums, s[2 * g + 1], tile, 16 * g + 8, width);
      } else {
        add_sixteen(sums, s[2 * g], s[2 * g + 1], tile, 16 * g, width);
      }
    }
  }

  // Column of the sums' number n of a lane.
  WINDOW_MATMUL_DEVICE static int column_of(int n) { return 8 * (n / 2) + 2 * (lane_index() % 4) + n % 2; }

  // f(h, column, 16 bytes of neighbours from there on) for the row g + 8 h of each lane. All lanes of a warp take part.
  template <class Out, class F>
  WINDOW_MATMUL_DEVICE static void for_each_run(const Sums& sums, F&& f) {
    const int t = lane_index() % 4;
    if constexpr (sizeof(Out) == 2) {
      WINDOW_MATMUL_UNROLL
      for (int n = 0; n < Dim / 16; ++n) {
        const int h = n % 2, first = n / 2 * 4;
        float run[8];
        WINDOW_MATMUL_UNROLL
        for (int i = 0; i < 8; ++i) run[i] = sums[first + i / 2][2 * h + i % 2];
        Rounded<Out> rounded(run);
        Core::exchange(rounded);
        f(h, 8 * (first + t), rounded);
      }
    } else {  // two lanes have the two halves of the runs of two fragments
      WINDOW_MATMUL_UNROLL
      for (int n = 0; n < Dim / 8; ++n) {
        const int h = n % 2, first = n / 2 * 2, odd = t % 2;
        float run[4];
        WINDOW_MATMUL_UNROLL
        for (int e = 0; e < 2; ++e) {
          const float even = sums[first][2 * h + e], other = sums[first + 1][2 * h + e];
          const float got = shuffle_xor(odd != 0 ? even : other, 1);
          run[e] = odd != 0 ? got : even, run[2 + e] = odd != 0 ? other : got;
        }
        f(h, 8 * (first + odd) + 2 * (t - odd), Rounded<Out>(run));
      }
    }
  }

 private:
  // 16 lines of C by the weights of two fragments.
  WINDOW_MATMUL_DEVICE static void add_sixteen(Sums& sums, const float (&s)[4], const float (&next)[4], std::uint32_t tile, int line,
                                               int width) {
    const int lane = fresh_lane_index();
    const LaneChunks<kLine> chunks(tile, line + lane % 16, lane / 16);
    const Fragment a = {pack<E>(s[0], s[1]), pack<E>(s[2], s[3]), pack<E>(next[0], next[1]), pack<E>(next[2], next[3])};
    WINDOW_MATMUL_UNROLL
    for (int f = 0; f < Dim / 16; ++f) {
      if (16 * f >= width) continue;
      Fragment b;
      load_matrices_transposed(b, chunks.at(0, 2 * f));
      mma(sums[2 * f], a, b[0], b[1], E{});
      mma(sums[2 * f + 1], a, b[2], b[3], E{});
    }
  }
  // 8 lines. The depths of TF32's left factor are t and t + 4 of a lane, which has columns 2 t and 2 t + 1: the lines are taken in that
  // order.
  WINDOW_MATMUL_DEVICE static void add_eight(Sums& sums, const float (&s)[4], std::uint32_t tile, int line, int width) {
    const int lane = fresh_lane_index(), g = lane / 4, t = lane % 4;
    const Fragment weights = {std::bit_cast<std::uint32_t>(s[0]), std::bit_cast<std::uint32_t>(s[2]), std::bit_cast<std::uint32_t>(s[1]),
                              std::bit_cast<std::uint32_t>(s[3])};
    const typename Core::Factor left(weights);
    WINDOW_MATMUL_UNROLL
    for (int f = 0; f < Dim / 16; ++f) {
      if (16 * f >= width) continue;
      Fragment b;
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int column = 16 * f + 8 * (i / 2) + g;
        b[i] = load_shared<std::uint32_t>(tile + chunk_offset<kLine>(line + 2 * t + i % 2, column / 4) +
                                          static_cast<std::uint32_t>(column % 4 * 4));
      }
      Core::add_two(sums[2 * f], sums[2 * f + 1], left, typename Core::Factor(b));
    }
  }
};

template <class E, int Dim, int Columns, int Line>
struct PlainWarp {
  using Sum = E;
  static constexpr int kFragments = Columns / 8, kLine = Line, kRun = 16 / sizeof(E);
  using Scores = Sum[kFragments][4];
  using Sums = Sum[Dim / 8][4];

  struct alignas(16) Chunk {
    E e[kRun];
  };
  WINDOW_MATMUL_DEVICE static Chunk chunk_at(std::uint32_t tile, int line, int chunk) {
    return load_shared<Chunk>(tile + chunk_offset<kLine>(line, chunk));
  }

  WINDOW_MATMUL_DEVICE static void multiply(Scores& s, std::uint32_t rows, int first_row, std::uint32_t columns, int depth,
                                            const Groups& groups) {
    const int lane = fresh_lane_index(), g = lane / 4, t = lane % 4;
    clear(s);
    WINDOW_MATMUL_NO_UNROLL
    for (int c = 0; c * kRun < depth; ++c) {
      const Chunk row[2] = {chunk_at(rows, first_row + g, c), chunk_at(rows, first_row + g + 8, c)};
      WINDOW_MATMUL_UNROLL
      for (int f = 0; f < kFragments; ++f) {
        if (!groups.has(f / 2)) continue;
        WINDOW_MATMUL_UNROLL
        for (int e = 0; e < 2; ++e) {
          const Chunk column = chunk_at(columns, 8 * f + 2 * t + e, c);
          WINDOW_MATMUL_UNROLL
          for (int i = 0; i < 2 * kRun; ++i)
            s[f][2 * (i / kRun) + e] = fused_multiply_add(row[i / kRun].e[i % kRun], column.e[i % kRun], s[f][2 * (i / kRun) + e]);
        }
      }
    }
  }

  // Each weight is passed to the four lanes that share its row.
  WINDOW_MATMUL_DEVICE static void accumulate(Sums& sums, const Scores& s, std::uint32_t tile, int width, const Groups& groups) {
    const int lane = lane_index();
    WINDOW_MATMUL_UNROLL
    for (int f = 0; f < kFragments; ++f) {
      if (!groups.has(f / 2)) continue;
      WINDOW_MATMUL_NO_UNROLL
      for (int owner = 0; owner < 4; ++owner) {
        WINDOW_MATMUL_UNROLL
        for (int e = 0; e < 2; ++e) {
          const Sum weight[2] = {shuffle(s[f][e], (lane & ~3) + owner), shuffle(s[f][2 + e], (lane & ~3) + owner)};
          add_line(sums, weight, tile, 8 * f + 2 * owner + e, width);
        }
      }
    }
  }

  WINDOW_MATMUL_DEVICE static int column_of(int n) { return 4 * kRun * (n / kRun) + kRun * (lane_index() % 4) + n % kRun; }

  template <class Out, class F>
  WINDOW_MATMUL_DEVICE static void for_each_run(const Sums& sums, F&& f) {
    static_assert(sizeof(Out) == sizeof(E));
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < Dim / 4; n += kRun) {
      WINDOW_MATMUL_UNROLL
      for (int h = 0; h < 2; ++h) {
        E run[kRun];
        WINDOW_MATMUL_UNROLL
        for (int i = 0; i < kRun; ++i) run[i] = sums[(n + i) / 2][2 * h + (n + i) % 2];
        f(h, column_of(n), Rounded<Out>(run));
      }
    }
  }

 private:
  WINDOW_MATMUL_DEVICE static void add_line(Sums& sums, const Sum (&weight)[2], std::uint32_t tile, int line, int width) {
    const int lane = fresh_lane_index();
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < Dim / 4; n += kRun) {
      if (4 * n >= width) continue;
      const Chunk values = chunk_at(tile, line, n / kRun * 4 + lane % 4);
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < 2 * kRun; ++i) {
        Sum& sum = sums[(n + i % kRun) / 2][2 * (i / kRun) + (n + i) % 2];
        sum = fused_multiply_add(weight[i / kRun], values.e[i % kRun], sum);
      }
    }
  }
};

// Line: bytes of a line, where it is longer than Dim.
template <class E, int Dim, int Columns, int Line = Dim * int{sizeof(E)}>
struct WarpProduct : TensorCoreWarp<E, Dim, Columns, Line> {};
template <int Dim, int Columns, int Line>
struct WarpProduct<float, Dim, Columns, Line> : PlainWarp<float, Dim, Columns, Line> {};
template <int Dim, int Columns, int Line>
struct WarpProduct<double, Dim, Columns, Line> : PlainWarp<double, Dim, Columns, Line> {};

template <class E, int Dim>
struct AttentionShape {
  static constexpr int kLine = Dim * int{sizeof(E)};  // bytes
  static constexpr AttentionTiles kTiles = attention_tiles(kLine);
  static constexpr int kRows = kTiles.rows, kColumns = kTiles.columns, kStages = kTiles.stages;
  static constexpr std::uint32_t kBytesRows = kTiles.bytes_of_rows, kBytesColumns = kTiles.bytes_of_columns;
};

}  // namespace window_matmul::cuda
