// src/cpu/simd/amx_emulated.hpp: pairs of bf16 and AMX's tiles in portable arithmetic, equal to the instructions' to the bit. For tests.
#pragma once

#include <cstring>

#include "cpu/simd/avx512_emulated.hpp"

namespace window_matmul::cpu {
namespace {

[[gnu::always_inline]] inline __m256 without_subnormals(__m256 v) {  // their sign stays
  const __m256 sign = _mm256_set1_ps(-0.0f), size = _mm256_andnot_ps(sign, v);
  const __m256 is_subnormal = _mm256_cmp_ps(size, _mm256_set1_ps(0x1p-126f), _CMP_LT_OQ);
  return _mm256_andnot_ps(_mm256_andnot_ps(sign, is_subnormal), v);
}
[[gnu::always_inline]] inline __m256 high_halves(__m256 v) { return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(-0x10000))); }

struct EmulatedTiles {
  static constexpr int kRows = 16, kColumns = 16, kTiles = 8;
  using Tile = std::uint32_t[kRows][kColumns];
  static thread_local Tile tiles[kTiles];
  static thread_local bool configured;

  static void configure() {
    std::memset(tiles, 0, sizeof tiles);
    configured = true;
  }
  static void release() { configured = false; }
  template <int T>
  static void zero() {
    std::memset(at(T), 0, sizeof(Tile));
  }
  template <int T>
  static void load(const void* from, index_t stride) {
    for (int r = 0; r < kRows; ++r) std::memcpy(at(T)[r], static_cast<const char*>(from) + r * stride, sizeof(Tile) / kRows);
  }
  template <int T>
  static void store(void* to, index_t stride) {
    for (int r = 0; r < kRows; ++r) std::memcpy(static_cast<char*>(to) + r * stride, at(T)[r], sizeof(Tile) / kRows);
  }
  // Of intrinsics alone, and unknown to sanitizers: they would look at each element, of tiles and of numbers of its own, and tests spend
  // their time here.
  template <int Sums, int A, int B>
  [[gnu::no_sanitize("address", "undefined")]] static void dot() {
    static_assert(Sums != A && Sums != B && A != B);
    if (!configured) __builtin_trap();  // as the processor does
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns; c += 8) {
        __m256 even = _mm256_setzero_ps(), odd = even;
        for (int step = 0; step < kColumns; ++step) {
          const __m256i a = _mm256_set1_epi32(static_cast<int>(tiles[A][r][step])), b = words(&tiles[B][step][c]);
          even = without_subnormals(_mm256_fmadd_ps(even_element(a), even_element(b), even));
          odd = without_subnormals(_mm256_fmadd_ps(odd_element(a), odd_element(b), odd));
        }
        const __m256 sums = without_subnormals(_mm256_castsi256_ps(words(&tiles[Sums][r][c])));
        const __m256 sum = without_subnormals(_mm256_add_ps(sums, without_subnormals(_mm256_add_ps(even, odd))));
        _mm256_storeu_ps(reinterpret_cast<float*>(&tiles[Sums][r][c]), sum);
      }
    }
  }

 private:
  static Tile& at(int tile) {
    if (!configured) __builtin_trap();  // as the processor does
    return tiles[tile];
  }
  [[gnu::always_inline]] static __m256i words(const std::uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  [[gnu::always_inline]] static __m256 even_element(__m256i pairs) {
    return without_subnormals(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)));
  }
  [[gnu::always_inline]] static __m256 odd_element(__m256i pairs) { return without_subnormals(high_halves(_mm256_castsi256_ps(pairs))); }
};
thread_local EmulatedTiles::Tile EmulatedTiles::tiles[EmulatedTiles::kTiles];
thread_local bool EmulatedTiles::configured;

template <class T>
struct AmxEmulated;

template <>
struct AmxEmulated<float> : Avx512Emulated<float> {
  using Tiles = EmulatedTiles;

  static Vec pairs(Vec even, Vec odd) {
    bf16 low[kLanes], high[kLanes];
    round(even, low), round(odd, high);
    return load_pairs(low, high);
  }
  static Vec high_part(Vec v) { return {high_halves(v.low), high_halves(v.high)}; }
  static Vec halves(Vec first, Vec second) {
    bf16 row[2 * kLanes];
    round(first, row), round(second, row + kLanes);
    return {half(row), half(row + kLanes)};
  }

 private:
  static __m256 half(const bf16* row) { return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row))); }
  static void round(Vec v, bf16* to) { store(to, Vec{without_subnormals(v.low), without_subnormals(v.high)}); }
};

}  // namespace
}  // namespace window_matmul::cpu
