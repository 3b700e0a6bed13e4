// src/cuda/kernels/tensor_core_product.cuh: the product on tensor cores, with fp32 sums: bf16, fp16, and fp32 split in two TF32 numbers.
//
// Matrix instructions take 16 rows x 8 columns and 32 bytes of depth: 16 halves, or 8 numbers of 32 bits. Their factors come by ldmatrix,
// which moves pairs of halves, or whole numbers of 32 bits. Those it cannot transpose: lines that are depths are read in plain loads there,
// and lie so that the four depths a thread's neighbours read at once are two lines apart, on different banks (chunk_offset).
#pragma once

#include "cuda/kernels/elements.hpp"
#include "cuda/kernels/product.cuh"

namespace window_matmul::cuda {

// tf32x3: x = big + small, each of 11 bits, and x y = big big + big small + small big, three matrix instructions of TF32. What is left out,
// small small and the last bit of small, is below 2^-21 |x y|: |small| <= 2^-11 |x|, and 2^-22 + 2 * 2^-23. (After Markidis et al., NVIDIA
// Tensor Core Programmability, Performance & Precision, 2018, who split into halves.)
WINDOW_MATMUL_DEVICE std::uint32_t big_part(std::uint32_t x) { return (x + 0x1000u) & ~0x1fffu; }  // to nearest
WINDOW_MATMUL_DEVICE std::uint32_t small_part(std::uint32_t x, std::uint32_t big) {  // exact, but NaN for infinities
  return std::bit_cast<std::uint32_t>(std::bit_cast<float>(x) - std::bit_cast<float>(big));
}

template <class E>
struct TensorCoreProduct {
  using Sum = float;
  static constexpr bool kSplits = sizeof(E) == 4;  // infinities become NaN: sums that are not finite are to be summed again
  static constexpr int kDepth = 128 / sizeof(E), kRun = 16 / sizeof(E);
  static constexpr int kGroup = 4 * kRun, kGroups = kTileColumns / kGroup;  // columns of the runs of four neighbouring threads
  static constexpr int kLineOfRows = kTileRows * sizeof(E), kLineOfColumns = kTileColumns * sizeof(E);
  float sums[8][4];
  static_assert(kWarpRows == 16);

  // Thread t of four gets run t of a group: column = run, fragment, pair -> fragment, run, pair.
  WINDOW_MATMUL_DEVICE static int place_of_column(int column) {
    const int run = column % kGroup / kRun, fragment = column % kRun / 2;
    return column / kGroup * kGroup + 8 * fragment + 2 * run + column % 2;
  }
  WINDOW_MATMUL_DEVICE static int place_of_depth(int depth) { return kSplits ? (depth & ~7) | (depth & 3) << 1 | (depth >> 2 & 1) : depth; }

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
    for (int k = 0; k < 4; ++k) {
      Fragment rows;
      load_rows<A>(rows, a, k);
      const Factor left(rows);
      WINDOW_MATMUL_UNROLL
      for (int f = 0; f < 4; ++f) {
        Fragment columns;
        load_columns<B>(columns, b, f, k);
        add_two(sums[2 * f], sums[2 * f + 1], left, Factor(columns));
      }
    }
  }

  // What this thread holds is runs of neighbouring columns, numbered: where each lies in the tile.
  WINDOW_MATMUL_DEVICE static int row_of(int run) {
    return thread_index() / kWarp * kWarpRows + thread_index() % kWarp / 4 + 8 * (run / kGroups);
  }
  WINDOW_MATMUL_DEVICE static int column_of(int run) { return kGroup * (run % kGroups) + kRun * (thread_index() % 4); }

  // f(number, the run rounded, whether its sums are finite). All threads of a warp take part.
  template <Lines B, class F>
  WINDOW_MATMUL_DEVICE void for_each_run(F&& f) const {
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < 2 * kGroups; ++n) {
      const int h = n / kGroups, first = n % kGroups * (kRun / 2);  // rows g or g + 8; the group's first fragment
      float run[kRun];
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < kRun; ++i) {
        const bool crossed = kSplits && B == Lines::across_depth;  // load_columns
        run[i] = sums[first + (crossed ? i % 2 : i / 2)][2 * h + (crossed ? i / 2 : i % 2)];
      }
      bool finite = all_finite(run);
      Rounded<E> rounded(run);
      if constexpr (!kSplits && B == Lines::across_depth) {
        exchange(rounded);
        finite = all_of_four(finite);
      }
      f(n, rounded, finite);
    }
  }

  // ---- for products of another shape too -----------------------------------------------------------------------------------------------
  struct Factor {
    Fragment big, small;

    WINDOW_MATMUL_DEVICE explicit Factor(const Fragment& whole) {
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < 4; ++i) {
        big[i] = kSplits ? big_part(whole[i]) : whole[i];
        small[i] = kSplits ? small_part(whole[i], big[i]) : 0;
      }
    }
  };

  // Small terms first. Two fragments of 8 columns, in turn, since each instruction waits for the last one that has the same sums.
  WINDOW_MATMUL_DEVICE static void add_two(float (&first)[4], float (&second)[4], const Factor& a, const Factor& b) {
    if constexpr (kSplits) {
      mma_tf32(first, a.small, b.big[0], b.big[1]);
      mma_tf32(second, a.small, b.big[2], b.big[3]);
      mma_tf32(first, a.big, b.small[0], b.small[1]);
      mma_tf32(second, a.big, b.small[2], b.small[3]);
      mma_tf32(first, a.big, b.big[0], b.big[1]);
      mma_tf32(second, a.big, b.big[2], b.big[3]);
    } else {
      mma(first, a.big, b.big[0], b.big[1], E{});
      mma(second, a.big, b.big[2], b.big[3], E{});
    }
  }

  // Fragments lie across the columns of a group: thread t holds columns 2 t and 2 t + 1 of each. Four threads swap their words as a 4 x 4
  // matrix is transposed, by halves and quarters; then thread t holds all 8 columns of fragment t.
  WINDOW_MATMUL_DEVICE static void exchange(Rounded<E>& run) {
    std::uint32_t word[4];
    __builtin_memcpy(word, run.e, 16);
    WINDOW_MATMUL_UNROLL
    for (int bit = 1; bit <= 2; bit *= 2) {
      const bool high = (thread_index() & bit) != 0;
      WINDOW_MATMUL_UNROLL
      for (int pair = 0; pair < 2; ++pair) {
        const int low = bit == 1 ? 2 * pair : pair;
        const std::uint32_t got = shuffle_xor(high ? word[low] : word[low + bit], bit);
        (high ? word[low] : word[low + bit]) = got;
      }
    }
    __builtin_memcpy(run.e, word, 16);
  }

 private:
  WINDOW_MATMUL_DEVICE static bool all_of_four(bool mine) {
    std::uint32_t all = mine ? 1 : 0;
    all &= shuffle_xor(all, 1);
    all &= shuffle_xor(all, 2);
    return all != 0;
  }

  template <Lines A>
  WINDOW_MATMUL_DEVICE static void load_rows(Fragment& r, std::uint32_t a, int k) {
    const int lane = thread_index() % kWarp, row = thread_index() / kWarp * kWarpRows;
    if constexpr (A == Lines::along_depth) {
      load_matrices(r, a + chunk_offset<128>(row + lane % 16, 2 * k + lane / 16));
    } else if constexpr (!kSplits) {
      load_matrices_transposed(r, a + chunk_offset<kLineOfRows>(16 * k + lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
    } else {
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int line = 8 * k + 2 * (lane % 4) + i / 2, r_ = row + lane / 4 + 8 * (i % 2);
        r[i] = load_shared<std::uint32_t>(a + chunk_offset<kLineOfRows>(line, r_ / 4) + static_cast<std::uint32_t>(r_ % 4 * 4));
      }
    }
  }
  // Fragments 2 f and 2 f + 1.
  template <Lines B>
  WINDOW_MATMUL_DEVICE static void load_columns(Fragment& r, std::uint32_t b, int f, int k) {
    const int lane = thread_index() % kWarp;
    if constexpr (B == Lines::along_depth) {
      load_matrices(r, b + chunk_offset<128>(16 * f + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
    } else if constexpr (!kSplits) {
      load_matrices_transposed(r, b + chunk_offset<kLineOfColumns>(16 * k + lane % 8 + lane / 8 % 2 * 8, 2 * f + lane / 16));
    } else {  // column g of the fragments: 16 f + 2 g of the first, 16 f + 2 g + 1 of the second
      WINDOW_MATMUL_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int line = 8 * k + 2 * (lane % 4) + i, g = lane / 4;
        const auto two =
            load_shared<std::uint64_t>(b + chunk_offset<kLineOfColumns>(line, 4 * f + g / 2) + static_cast<std::uint32_t>(g % 2 * 8));
        r[i] = static_cast<std::uint32_t>(two), r[2 + i] = static_cast<std::uint32_t>(two >> 32);
      }
    }
  }
};

template <>
struct Product<bf16> : TensorCoreProduct<bf16> {};
template <>
struct Product<f16> : TensorCoreProduct<f16> {};
template <>
struct Product<tf32x3> : TensorCoreProduct<tf32x3> {};

}  // namespace window_matmul::cuda
