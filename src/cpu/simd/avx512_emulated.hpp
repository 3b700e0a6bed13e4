// src/cpu/simd/avx512_emulated.hpp: two AVX2 vectors as one, with the lanes, tiles and words of AVX-512. For tests, not for work.
//
// The kernels are one text, but which of its paths are taken depends on the lanes of a vector and on the shape of the register tile.
// Compiled on this vocabulary it takes those of AVX-512; what is left untested are the intrinsics of avx512.hpp.
#pragma once

#include <cmath>

#include "cpu/simd/avx2.hpp"

namespace window_matmul::cpu {
namespace {

struct EmulatedWords {
  using Half = Avx2Words;
  static constexpr index_t kHalf = Half::kWordLanes, kWordLanes = 2 * kHalf;
  struct Words {
    Half::Words low, high;
  };

  static Words splat_words(std::uint64_t x) { return {Half::splat_words(x), Half::splat_words(x)}; }
  static Words load_words(const std::uint64_t* p) { return {Half::load_words(p), Half::load_words(p + kHalf)}; }
  static void store_words(std::uint64_t* p, Words w) { Half::store_words(p, w.low), Half::store_words(p + kHalf, w.high); }
  static Words multiply_words(Words a, Words b) { return {Half::multiply_words(a.low, b.low), Half::multiply_words(a.high, b.high)}; }
  static Words high_words(Words a) { return {Half::high_words(a.low), Half::high_words(a.high)}; }
  static Words exclusive_or(Words a, Words b) { return {Half::exclusive_or(a.low, b.low), Half::exclusive_or(a.high, b.high)}; }
};

template <class T>
struct Avx512Emulated : EmulatedWords {
  using Half = Avx2<T>;
  using Scalar = T;
  static constexpr index_t kHalf = Half::kLanes, kLanes = 2 * kHalf;
  static constexpr int kTileRows = 6, kTileVecs = 4;
  struct Vec {
    typename Half::Vec low, high;
  };

  static Vec zero() { return {Half::zero(), Half::zero()}; }
  static Vec splat(T x) { return {Half::splat(x), Half::splat(x)}; }
  template <class E>
  static Vec load(const E* p) {
    return {Half::load(p), Half::load(p + kHalf)};
  }
  static Vec load_pairs(const bf16* even, const bf16* odd) { return {half_of_pairs(even, odd), half_of_pairs(even + kHalf, odd + kHalf)}; }
  template <class E>
  static void store(E* p, Vec v) {
    Half::store(p, v.low), Half::store(p + kHalf, v.high);
  }
  static Vec in_register(Vec v) { return v; }
  static void store_first(T* p, Vec v, index_t n) {
    if (n < kHalf) return Half::store_first(p, v.low, n);
    Half::store(p, v.low), Half::store_first(p + kHalf, v.high, n - kHalf);
  }
  static Vec fma(Vec a, Vec b, Vec c) { return {Half::fma(a.low, b.low, c.low), Half::fma(a.high, b.high, c.high)}; }
  static Vec add(Vec a, Vec b) { return {Half::add(a.low, b.low), Half::add(a.high, b.high)}; }
  static Vec sub(Vec a, Vec b) { return {Half::sub(a.low, b.low), Half::sub(a.high, b.high)}; }
  static Vec mul(Vec a, Vec b) { return {Half::mul(a.low, b.low), Half::mul(a.high, b.high)}; }
  static Vec div(Vec a, Vec b) { return {Half::div(a.low, b.low), Half::div(a.high, b.high)}; }
  static Vec max(Vec a, Vec b) { return {Half::max(a.low, b.low), Half::max(a.high, b.high)}; }
  static Vec min(Vec a, Vec b) { return {Half::min(a.low, b.low), Half::min(a.high, b.high)}; }
  static Vec where_less(Vec a, Vec b, Vec c, Vec d) {
    return {Half::where_less(a.low, b.low, c.low, d.low), Half::where_less(a.high, b.high, c.high, d.high)};
  }
  static Vec shift_to_exponent(Vec v) { return {Half::shift_to_exponent(v.low), Half::shift_to_exponent(v.high)}; }
  static Vec fraction(Vec v) {
    return lane_by_lane(v, v, [](T x, T) { return std::isinf(x) ? T{0} : x - std::nearbyint(x); });
  }
  static Vec times_power_of_two(Vec v, Vec n) {
    return lane_by_lane(v, n, [](T x, T power) { return x * std::exp2(power); });
  }
  static T sum(Vec v) { return Half::sum(Half::add(v.low, v.high)); }
  static T highest(Vec v) { return Half::highest(Half::max(v.low, v.high)); }
  static bool all_zero(Vec v) { return Half::all_zero(v.low) && Half::all_zero(v.high); }
  static Vec sums(const Vec (&r)[kLanes]) {
    typename Half::Vec low[kHalf], high[kHalf];
    for (index_t i = 0; i < kHalf; ++i) low[i] = Half::add(r[i].low, r[i].high), high[i] = Half::add(r[i + kHalf].low, r[i + kHalf].high);
    return {Half::sums(low), Half::sums(high)};
  }
  static void transpose(Vec (&r)[kLanes]) {  // quarters, and the two off the diagonal change places
    typename Half::Vec quarter[4][kHalf];
    for (index_t i = 0; i < kHalf; ++i)
      quarter[0][i] = r[i].low, quarter[1][i] = r[i + kHalf].low, quarter[2][i] = r[i].high, quarter[3][i] = r[i + kHalf].high;
    for (auto& q : quarter) Half::transpose(q);
    for (index_t i = 0; i < kHalf; ++i) r[i] = {quarter[0][i], quarter[1][i]}, r[i + kHalf] = {quarter[2][i], quarter[3][i]};
  }

 private:
  static __m256 half_of_pairs(const bf16* even, const bf16* odd) {
    const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(even)));
    const __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(odd)));
    return _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_slli_epi32(high, 16)));
  }
  template <class F>
  static Vec lane_by_lane(Vec a, Vec b, F f) {
    T x[kLanes], y[kLanes];
    store(x, a), store(y, b);
    for (index_t i = 0; i < kLanes; ++i) x[i] = f(x[i], y[i]);
    return load(x);
  }
};

}  // namespace
}  // namespace window_matmul::cpu
