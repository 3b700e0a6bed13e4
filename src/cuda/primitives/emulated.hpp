// src/cuda/primitives/emulated.hpp: the primitives on a CPU, in terms of an emulated block.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cuda/emulation/block.hpp"

// Kernels whose every function is inlined take more than twice as long to compile, and their speed hardly matters here.
#define WINDOW_MATMUL_DEVICE inline
// Accesses are: each use of one has its own place in the program, by which `traffic.hpp` puts lanes together.
#define WINDOW_MATMUL_ACCESS [[gnu::always_inline]] inline
#define WINDOW_MATMUL_UNROLL
#define WINDOW_MATMUL_NO_UNROLL

namespace window_matmul::cuda::inline emulated {

using emulation::Block;

WINDOW_MATMUL_DEVICE int thread_index() { return Block::current().thread(); }
WINDOW_MATMUL_DEVICE index_t block_index() { return Block::current().block_index(); }
WINDOW_MATMUL_DEVICE index_t grid_size() { return Block::current().grid_size(); }

// ---- barriers and shuffles ----------------------------------------------------------------------------------------------------------

WINDOW_MATMUL_DEVICE void sync_threads() { Block::current().barrier(0, Block::current().threads()); }
template <int Id>
WINDOW_MATMUL_DEVICE void sync_named(int threads) {
  static_assert(Id >= 1 && Id <= 15);
  Block::current().barrier(Id, threads);
}
WINDOW_MATMUL_DEVICE void sync_warp() { Block::current().sync_warp(); }

template <class T>
struct Shuffle {
  T value, result;
  int lane;
  static void run(Block&, void* const* lanes) {
    for (int l = 0; l < kWarp; ++l) {
      Shuffle& mine = *static_cast<Shuffle*>(lanes[l]);
      mine.result = static_cast<Shuffle*>(lanes[mine.lane & (kWarp - 1)])->value;
    }
  }
};
template <class T>
T shuffle(T value, int lane) {
  Shuffle<T> mine{value, value, lane};
  Block::current().together(Shuffle<T>::run, &mine);
  return mine.result;
}
template <class T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, (thread_index() ^ mask) & (kWarp - 1));
}

// ---- memory -------------------------------------------------------------------------------------------------------------------------

template <class T>
WINDOW_MATMUL_ACCESS T load_global(std::uintptr_t address) {
  static_assert(std::has_single_bit(sizeof(T)) && sizeof(T) >= 2 && sizeof(T) <= 16);
  T value;
  Block::current().load_global(address, &value, sizeof(T));
  return value;
}
WINDOW_MATMUL_ACCESS std::uint8_t load_byte(std::uintptr_t address) {
  std::uint8_t value;
  Block::current().load_global(address, &value, 1);
  return value;
}
template <class T>
WINDOW_MATMUL_ACCESS void store_global(std::uintptr_t address, T value) {
  static_assert(std::has_single_bit(sizeof(T)) && sizeof(T) >= 2 && sizeof(T) <= 16);
  Block::current().store_global(address, &value, sizeof(T));
}
template <class T>
WINDOW_MATMUL_ACCESS T load_shared(std::uint32_t offset) {
  T value;
  Block::current().load_shared(offset, &value, sizeof(T));
  return value;
}
template <class T>
WINDOW_MATMUL_ACCESS void store_shared(std::uint32_t offset, T value) {
  Block::current().store_shared(offset, &value, sizeof(T));
}
template <int Bytes>
WINDOW_MATMUL_ACCESS void copy_async(std::uint32_t shared, std::uintptr_t global, int valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  Block::current().copy_async(shared, global, Bytes, valid);
}
WINDOW_MATMUL_ACCESS void commit_copies() { Block::current().commit_copies(); }
template <int Newest>
WINDOW_MATMUL_ACCESS void wait_copies() {
  Block::current().wait_copies(Newest);
}

// ---- matrices -----------------------------------------------------------------------------------------------------------------------

using Fragment = std::uint32_t[4];

// Lane l holds elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each 8 x 8 matrix; its offset names row l % 8 of matrix l / 8.
struct Matrices {
  std::uint32_t* r;
  std::uint32_t offset;
  std::uint16_t row[8] = {};

  static void count(Block& block, void* const* lanes) {
    std::vector<std::uintptr_t> rows;
    for (int l = 0; l < kWarp; ++l) rows.push_back(static_cast<Matrices*>(lanes[l])->offset);
    block.count_matrices(rows);
  }
  template <bool Transposed>
  static void load(Block& block, void* const* lanes) {
    for (int l = 0; l < kWarp; ++l) {
      Matrices& mine = *static_cast<Matrices*>(lanes[l]);
      block.shared().load(block.first_lane() + l, mine.offset, mine.row, 16);
    }
    for (int l = 0; l < kWarp; ++l)
      for (int m = 0; m < 4; ++m) {
        std::uint32_t pair = 0;
        for (int e = 0; e < 2; ++e) {
          const int outer = l / 4, inner = 2 * (l % 4) + e;
          const auto* from = static_cast<Matrices*>(lanes[8 * m + (Transposed ? inner : outer)]);
          pair |= std::uint32_t{from->row[Transposed ? outer : inner]} << (16 * e);
        }
        static_cast<Matrices*>(lanes[l])->r[m] = pair;
      }
    count(block, lanes);
  }
  static void store(Block& block, void* const* lanes) {
    for (int l = 0; l < kWarp; ++l)
      for (int m = 0; m < 4; ++m)
        for (int e = 0; e < 2; ++e)
          static_cast<Matrices*>(lanes[8 * m + l / 4])->row[2 * (l % 4) + e] =
              static_cast<std::uint16_t>(static_cast<Matrices*>(lanes[l])->r[m] >> (16 * e));
    for (int l = 0; l < kWarp; ++l) {
      Matrices& mine = *static_cast<Matrices*>(lanes[l]);
      block.shared().store(block.first_lane() + l, mine.offset, mine.row, 16);
    }
    count(block, lanes);
  }
};
inline void load_matrices(Fragment& r, std::uint32_t offset) {
  Matrices mine{r, offset};
  Block::current().together(Matrices::load<false>, &mine);
}
inline void load_matrices_transposed(Fragment& r, std::uint32_t offset) {
  Matrices mine{r, offset};
  Block::current().together(Matrices::load<true>, &mine);
}
inline void store_matrices(std::uint32_t offset, const Fragment& r) {
  Fragment copy = {r[0], r[1], r[2], r[3]};
  Matrices mine{copy, offset};
  Block::current().together(Matrices::store, &mine);
}

// D (M x 8) += A (M x K) B (K x 8). With g = lane / 4 and t = lane % 4, registers hold P elements each: D: row g + 8h, columns 2t, 2t + 1.
// A: row g + 8 (r % 2), columns P t + 4 P (r / 2) and on.  B: column g, rows P t + 4 P r and on.
template <class E>
struct Product16x8 {
  static constexpr int P = std::is_same_v<E, float> ? 1 : 2, K = 8 * P;
  float* d;
  const std::uint32_t* a;
  std::uint32_t b[2];

  static float element(std::uint32_t word, int e) {
    if constexpr (P == 1)
      return std::bit_cast<float>(word & 0xffffe000u);  // the tensor cores read 10 bits of fraction
    else
      return widen(E{static_cast<std::uint16_t>(word >> (16 * e))});
  }
  static void run(Block& block, void* const* lanes) {
    float a[16][16], b[16][8];
    for (int l = 0; l < kWarp; ++l) {
      const auto& mine = *static_cast<Product16x8*>(lanes[l]);
      const int g = l / 4, t = l % 4;
      for (int e = 0; e < P; ++e) {
        for (int r = 0; r < 4; ++r) a[g + 8 * (r % 2)][P * t + 4 * P * (r / 2) + e] = element(mine.a[r], e);
        for (int r = 0; r < 2; ++r) b[P * t + 4 * P * r + e][g] = element(mine.b[r], e);
      }
    }
    for (int l = 0; l < kWarp; ++l)
      for (int i = 0; i < 4; ++i) {
        const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
        float sum = static_cast<Product16x8*>(lanes[l])->d[i];
        for (int k = 0; k < K; ++k) sum += a[row][k] * b[k][column];
        static_cast<Product16x8*>(lanes[l])->d[i] = sum;
      }
    block.count_products(16 * 8 * K);
  }
};
template <class E>
void mma(float (&d)[4], const Fragment& a, std::uint32_t b0, std::uint32_t b1, E) {
  Product16x8<E> mine{d, a, {b0, b1}};
  Block::current().together(Product16x8<E>::run, &mine);
}
inline void mma_tf32(float (&d)[4], const Fragment& a, std::uint32_t b0, std::uint32_t b1) { mma(d, a, b0, b1, float{}); }

struct Product8x8 {
  double* d;
  double a, b;
  static void run(Block& block, void* const* lanes) {
    for (int l = 0; l < kWarp; ++l)
      for (int e = 0; e < 2; ++e) {
        const int row = l / 4, column = 2 * (l % 4) + e;
        double& sum = static_cast<Product8x8*>(lanes[l])->d[e];
        for (int k = 0; k < 4; ++k)
          sum = std::fma(static_cast<Product8x8*>(lanes[4 * row + k])->a, static_cast<Product8x8*>(lanes[4 * column + k])->b, sum);
      }
    block.count_products(8 * 8 * 4);
  }
};
inline void mma_f64(double (&d)[2], double a, double b) {
  Product8x8 mine{d, a, b};
  Block::current().together(Product8x8::run, &mine);
}

// ---- numbers ------------------------------------------------------------------------------------------------------------------------

template <class E>
WINDOW_MATMUL_DEVICE std::uint32_t pack(float low, float high) {
  return std::uint32_t{narrow<E>(low).bits} | std::uint32_t{narrow<E>(high).bits} << 16;
}
template <class E>
WINDOW_MATMUL_DEVICE float unpack(std::uint32_t packed, int which) {
  return widen(E{static_cast<std::uint16_t>(packed >> (16 * which))});
}
WINDOW_MATMUL_DEVICE float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
WINDOW_MATMUL_DEVICE double fused_multiply_add(double a, double b, double c) { return std::fma(a, b, c); }
WINDOW_MATMUL_DEVICE float exponential(float x) { return std::exp(x); }
WINDOW_MATMUL_DEVICE double exponential(double x) { return std::exp(x); }
WINDOW_MATMUL_DEVICE float power_of_two(float x) { return std::exp2(x); }
WINDOW_MATMUL_DEVICE double power_of_two(double x) { return std::exp2(x); }
WINDOW_MATMUL_DEVICE float logarithm(float x) { return std::log(x); }
WINDOW_MATMUL_DEVICE double logarithm(double x) { return std::log(x); }
WINDOW_MATMUL_DEVICE float hyperbolic_tangent(float x) { return std::tanh(x); }
WINDOW_MATMUL_DEVICE double hyperbolic_tangent(double x) { return std::tanh(x); }
WINDOW_MATMUL_DEVICE float maximum(float a, float b) { return std::fmax(a, b); }
WINDOW_MATMUL_DEVICE double maximum(double a, double b) { return std::fmax(a, b); }
WINDOW_MATMUL_DEVICE void forget(int&) {}
WINDOW_MATMUL_DEVICE void forget(index_t&) {}
WINDOW_MATMUL_DEVICE void forget(Bytes16&) {}
WINDOW_MATMUL_DEVICE bool is_finite(float x) { return std::isfinite(x); }
WINDOW_MATMUL_DEVICE bool is_finite(double x) { return std::isfinite(x); }

}  // namespace window_matmul::cuda::inline emulated
