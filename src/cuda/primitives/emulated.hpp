// src/cuda/primitives/emulated.hpp: the primitives on a CPU, in terms of an emulated block.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "cuda/emulation/block.hpp"
#include "cuda/emulation/matrices.hpp"

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

inline void load_matrices(Fragment& r, std::uint32_t offset) {
  emulation::Matrices mine{r, offset};
  Block::current().together(emulation::load_matrices, &mine);
}
inline void load_matrices_transposed(Fragment& r, std::uint32_t offset) {
  emulation::Matrices mine{r, offset};
  Block::current().together(emulation::load_matrices_transposed, &mine);
}
inline void store_matrices(std::uint32_t offset, const Fragment& r) {
  Fragment copy = {r[0], r[1], r[2], r[3]};
  emulation::Matrices mine{copy, offset};
  Block::current().together(emulation::store_matrices, &mine);
}

template <class E>
void mma(float (&d)[4], const Fragment& a, std::uint32_t b0, std::uint32_t b1, E) {
  emulation::Product16x8 mine{d, a, {b0, b1}};
  Block::current().together(emulation::multiply<E>, &mine);
}
inline void mma_tf32(float (&d)[4], const Fragment& a, std::uint32_t b0, std::uint32_t b1) { mma(d, a, b0, b1, float{}); }
inline void mma_f64(double (&d)[2], double a, double b) {
  emulation::Product8x8 mine{d, a, b};
  Block::current().together(emulation::multiply_f64, &mine);
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
