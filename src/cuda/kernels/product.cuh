// src/cuda/kernels/product.cuh: sums (128 rows x 64 columns) += A (128 x depth) B (depth x 64), tiles in shared memory, sums in registers.
//
// Two of a kind: bf16 and fp16 on tensor cores, fp32 and fp64 in plain multiply-adds. A warp owns 16 rows. Depth is 128 bytes of elements.
// How a tile lies: `lines` of A are rows (or depths, transposed); lines of B are columns (band_out) or depths (band_in).
//
// Where B's lines are columns, place(c) says where column c is kept: shuffled within 32 so that what a thread sums is a run of kRun
// neighbouring columns, stored at once.
#pragma once

#include <type_traits>

#include "cuda/kernels/tile_load.cuh"

namespace window_matmul::cuda {

inline constexpr int kTileRows = 128, kTileColumns = 64, kWarpRows = kTileRows / (kThreads / kWarp);
enum class Lines { along_depth, across_depth };  // a line of the tile holds many depths, or one

template <class E>
struct Product;

template <class E>
struct TensorCoreProduct {
  using Sum = float;
  static constexpr int kDepth = 64;
  static constexpr int kRunOfColumns = 8, kRunOfDepths = 2;  // neighbouring sums of a thread, as B's lines are columns or depths
  float sums[8][4];
  static_assert(kWarpRows == 16);

  // Column bits t1 t0 f1 f0 e -> f1 f0 t1 t0 e: thread t of four gets columns 8 t .. 8 t + 7 from fragments f = 0 .. 3.
  WINDOW_MATMUL_DEVICE static int place(int column) {
    return (column & ~31) | ((column >> 1 & 3) << 3) | ((column >> 3 & 3) << 1) | (column & 1);
  }

  WINDOW_MATMUL_DEVICE void clear() {
    WINDOW_MATMUL_UNROLL
    for (auto& fragment : sums) {
      WINDOW_MATMUL_UNROLL
      for (float& s : fragment) s = 0;
    }
  }

  template <Lines A, Lines B>
  WINDOW_MATMUL_DEVICE void add(std::uint32_t a, std::uint32_t b) {
    WINDOW_MATMUL_UNROLL
    for (int k = 0; k < kDepth / 16; ++k) {
      Fragment rows;
      load_rows<A>(rows, a, k);
      WINDOW_MATMUL_UNROLL
      for (int f = 0; f < 4; ++f) {
        Fragment columns;
        load_columns<B>(columns, b, f, k);
        mma(sums[2 * f], rows, columns[0], columns[1], E{});
        mma(sums[2 * f + 1], rows, columns[2], columns[3], E{});
      }
    }
  }

  // What this thread holds is runs of neighbouring columns, numbered: where each lies in the tile.
  template <Lines B>
  WINDOW_MATMUL_DEVICE static int row_of(int run) {
    return thread_index() / kWarp * kWarpRows + thread_index() % kWarp / 4 + 8 * (B == Lines::along_depth ? run / 2 : run / 8);
  }
  template <Lines B>
  WINDOW_MATMUL_DEVICE static int column_of(int run) {
    const int t = thread_index() % 4;
    return B == Lines::along_depth ? 32 * (run % 2) + 8 * t : 8 * (run % 8) + 2 * t;
  }
  // f(number, sums of the run)
  template <Lines B, class F>
  WINDOW_MATMUL_DEVICE void for_each_run(F&& f) const {
    constexpr int kRun = B == Lines::along_depth ? kRunOfColumns : kRunOfDepths, kRuns = 32 / kRun;
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < kRuns; ++n) {
      float run[kRun];
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < kRun; ++i) run[i] = sums[n % (kRuns / 2) * (kRun / 2) + i / 2][n / (kRuns / 2) * 2 + i % 2];
      f(n, run);
    }
  }

 private:
  template <Lines A>
  WINDOW_MATMUL_DEVICE static void load_rows(Fragment& r, std::uint32_t a, int k) {
    const int lane = thread_index() % kWarp, row = thread_index() / kWarp * kWarpRows;
    if constexpr (A == Lines::along_depth)
      load_matrices(r, a + chunk_offset<128>(row + lane % 16, 2 * k + lane / 16));
    else
      load_matrices_transposed(r, a + chunk_offset<256>(16 * k + lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
  }
  template <Lines B>
  WINDOW_MATMUL_DEVICE static void load_columns(Fragment& r, std::uint32_t b, int f, int k) {
    const int lane = thread_index() % kWarp;
    if constexpr (B == Lines::along_depth)
      load_matrices(r, b + chunk_offset<128>(16 * f + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
    else
      load_matrices_transposed(r, b + chunk_offset<128>(16 * k + lane % 8 + lane / 8 % 2 * 8, 2 * f + lane / 16));
  }
};

template <>
struct Product<bf16> : TensorCoreProduct<bf16> {};
template <>
struct Product<f16> : TensorCoreProduct<f16> {};

// A thread sums 4 rows (4 apart) by 8 columns (runs of 16 bytes, 8 runs apart). Factors come in chunks of 16 bytes, without conflicts:
// eight lanes read either one chunk or eight of different banks.
template <class E>
struct PlainProduct {
  using Sum = E;
  static constexpr int kDepth = 128 / sizeof(E), kRun = 16 / sizeof(E);
  static constexpr int kRunOfColumns = kRun, kRunOfDepths = kRun;
  static constexpr int kRuns = 8 / kRun, kLineOfRows = kTileRows * sizeof(E), kLineOfColumns = kTileColumns * sizeof(E);
  static constexpr int kRows = kWarpRows / 4;
  E sums[kRows][8];

  struct alignas(16) Chunk {
    E e[kRun];
  };

  WINDOW_MATMUL_DEVICE static int place(int column) {  // lanes are the fastest, so that eight of them read eight lines
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

  template <Lines>
  WINDOW_MATMUL_DEVICE static int row_of(int run) {
    return first_row() + 4 * (run / kRuns);
  }
  template <Lines>
  WINDOW_MATMUL_DEVICE static int column_of(int run) {
    return (8 * (run % kRuns) + lane_of_columns()) * kRun;
  }
  template <Lines B, class F>
  WINDOW_MATMUL_DEVICE void for_each_run(F&& f) const {
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < kRows * kRuns; ++n) {
      E run[kRun];
      WINDOW_MATMUL_UNROLL
      for (int j = 0; j < kRun; ++j) run[j] = sums[n / kRuns][n % kRuns * kRun + j];
      f(n, run);
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
