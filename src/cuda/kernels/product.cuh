// src/cuda/kernels/product.cuh: sums (128 rows x 64 columns) += A (128 x depth) B (depth x 64), tiles in shared memory, sums in registers.
//
// Two of a kind: tensor_core_product.cuh for bf16, fp16 and fp32 by TF32; here fp32 and fp64 in plain multiply-adds. A warp owns 16 rows.
// Depth is 128 bytes of elements. How a tile lies: `lines` of A are rows (or depths, transposed); lines of B are columns (band_out) or
// depths (band_in).
//
// Lines are kept where the product wants them: where B's lines are columns, place_of_column(c) is shuffled so that what a thread sums is a
// run of neighbouring columns, 16 bytes of them, stored at once; place_of_depth(d) likewise where lines are depths.
#pragma once

#include "cuda/kernels/store_run.cuh"

namespace window_matmul::cuda {

inline constexpr int kTileRows = 128, kTileColumns = 64, kWarpRows = kTileRows / (kThreads / kWarp);
enum class Lines { along_depth, across_depth };  // a line of the tile holds many depths, or one

template <class E>
struct Product;

// A thread sums 4 rows (4 apart) by 8 columns (runs of 16 bytes, 8 runs apart). Factors come in chunks of 16 bytes, without conflicts:
// eight lanes read either one chunk or eight of different banks.
template <class E>
struct PlainProduct {
  using Sum = E;
  static constexpr bool kSplits = false;
  static constexpr int kDepth = 128 / sizeof(E), kRun = 16 / sizeof(E);
  static constexpr int kRuns = 8 / kRun, kLineOfRows = kTileRows * sizeof(E), kLineOfColumns = kTileColumns * sizeof(E);
  static constexpr int kRows = kWarpRows / 4;
  E sums[kRows][8];

  struct alignas(16) Chunk {
    E e[kRun];
  };

  WINDOW_MATMUL_DEVICE static int place_of_depth(int depth) { return depth; }
  WINDOW_MATMUL_DEVICE static int place_of_column(int column) {  // lanes are the fastest, so that eight of them read eight lines
    const int in_group = column % (8 * kRun);
    return column - in_group + in_group % kRun * 8 + in_group / kRun;
  }

  WINDOW_MATMUL_DEVICE void clear() {
    WINDOW_MATMUL_UNROLL
    for (auto& row : sums) {
      WINDOW_MATMUL_UNROLL
      for (E& s : row) s = 0;
    }
  }

  template <Lines A, Lines B>
  WINDOW_MATMUL_DEVICE void add(std::uint32_t a, std::uint32_t b) {
    WINDOW_MATMUL_NO_UNROLL
    for (int chunk = 0; chunk < 8; ++chunk) {
      Chunk rows[kRows];
      load_rows<A>(rows, a, chunk);
      if constexpr (B == Lines::along_depth)
        add_columns(rows, b, chunk);
      else
        add_depths(rows, b, chunk);
    }
  }

  WINDOW_MATMUL_DEVICE static int row_of(int run) { return first_row() + 4 * (run / kRuns); }
  WINDOW_MATMUL_DEVICE static int column_of(int run) { return (8 * (run % kRuns) + lane_of_columns()) * kRun; }
  template <Lines, class F>
  WINDOW_MATMUL_DEVICE void for_each_run(F&& f) const {
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < kRows * kRuns; ++n) {
      E run[kRun];
      WINDOW_MATMUL_UNROLL
      for (int j = 0; j < kRun; ++j) run[j] = sums[n / kRuns][n % kRuns * kRun + j];
      f(n, Rounded<E>(run), all_finite(run));
    }
  }

 private:
  WINDOW_MATMUL_DEVICE static int first_row() { return thread_index() / kWarp * kWarpRows + thread_index() % kWarp / 8; }
  WINDOW_MATMUL_DEVICE static int lane_of_columns() { return thread_index() % 8; }

  template <Lines A>
  WINDOW_MATMUL_DEVICE static void load_rows(Chunk (&rows)[kRows], std::uint32_t a, int chunk) {
    WINDOW_MATMUL_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const int row = first_row() + 4 * i;
      if constexpr (A == Lines::along_depth) {
        rows[i] = load_shared<Chunk>(a + chunk_offset<128>(row, chunk));
      } else {
        WINDOW_MATMUL_UNROLL
        for (int e = 0; e < kRun; ++e)
          rows[i].e[e] = load_shared<E>(a + chunk_offset<kLineOfRows>(chunk * kRun + e, row / kRun) +
                                        static_cast<std::uint32_t>(row % kRun * int{sizeof(E)}));
      }
    }
  }
  WINDOW_MATMUL_DEVICE void add_columns(const Chunk (&rows)[kRows], std::uint32_t b, int chunk) {
    WINDOW_MATMUL_UNROLL
    for (int c = 0; c < 8; ++c) {
      const Chunk column = load_shared<Chunk>(b + chunk_offset<128>(8 * c + lane_of_columns(), chunk));
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < kRows; ++i) {
        WINDOW_MATMUL_UNROLL
        for (int e = 0; e < kRun; ++e) sums[i][c] = fused_multiply_add(rows[i].e[e], column.e[e], sums[i][c]);
      }
    }
  }
  WINDOW_MATMUL_DEVICE void add_depths(const Chunk (&rows)[kRows], std::uint32_t b, int chunk) {
    WINDOW_MATMUL_UNROLL
    for (int e = 0; e < kRun; ++e) {
      WINDOW_MATMUL_UNROLL
      for (int q = 0; q < kRuns; ++q) {
        const Chunk columns = load_shared<Chunk>(b + chunk_offset<kLineOfColumns>(chunk * kRun + e, 8 * q + lane_of_columns()));
        WINDOW_MATMUL_UNROLL
        for (int i = 0; i < kRows; ++i) {
          WINDOW_MATMUL_UNROLL
          for (int j = 0; j < kRun; ++j) sums[i][q * kRun + j] = fused_multiply_add(rows[i].e[e], columns.e[j], sums[i][q * kRun + j]);
        }
      }
    }
  }
};

template <>
struct Product<float> : PlainProduct<float> {};
template <>
struct Product<double> : PlainProduct<double> {};

}  // namespace window_matmul::cuda
