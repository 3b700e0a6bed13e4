// src/cpu/simd/avx512bf16_emulated.hpp: products of pairs of bf16 on AVX2, equal to the instruction's to the bit. For tests.
#pragma once

#include "cpu/simd/avx512_emulated.hpp"

namespace window_matmul::cpu {
namespace {

template <class T>
struct Avx512Bf16Emulated;

template <>
struct Avx512Bf16Emulated<float> : Avx512Emulated<float> {
  using Base = Avx512Emulated<float>;
  using Base::load, Base::store;

  static Vec load(const Pair* p) { return {half(p), half(p + kHalf)}; }
  static void store(bf16* p, Vec v) { Base::store(p, Vec{without_subnormals(v.low), without_subnormals(v.high)}); }
  static Vec dot_pairs(Vec a, Vec b, Vec c) { return {dot(a.low, b.low, c.low), dot(a.high, b.high, c.high)}; }

 private:
  static __m256 half(const Pair* p) { return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static __m256 dot(__m256 a, __m256 b, __m256 c) {  // scalar.hpp says what it is
    c = without_subnormals(c);
    c = without_subnormals(_mm256_fmadd_ps(odd(a), odd(b), c));
    return without_subnormals(_mm256_fmadd_ps(even(a), even(b), c));
  }
  static __m256 odd(__m256 pairs) { return without_subnormals(_mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32(-0x10000)))); }
  static __m256 even(__m256 pairs) { return without_subnormals(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16))); }
  static __m256 without_subnormals(__m256 v) {  // their sign stays
    const __m256 sign = _mm256_set1_ps(-0.0f), size = _mm256_andnot_ps(sign, v);
    return _mm256_blendv_ps(v, _mm256_and_ps(sign, v), _mm256_cmp_ps(size, _mm256_set1_ps(0x1p-126f), _CMP_LT_OQ));
  }
};

}  // namespace
}  // namespace window_matmul::cpu
