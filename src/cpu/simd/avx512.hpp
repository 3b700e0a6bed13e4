// src/cpu/simd/avx512.hpp: the vocabulary in AVX-512 F, BW, DQ and VL: 32 registers of 16 floats or 8 doubles.
#pragma once

#include <immintrin.h>

#include "half.hpp"

namespace window_matmul::cpu {
namespace {

struct Avx512Words {
  using Words = __m512i;
  static constexpr index_t kWordLanes = 8;

  static Words splat_words(std::uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static Words load_words(const std::uint64_t* p) { return _mm512_loadu_si512(p); }
  static void store_words(std::uint64_t* p, Words w) { _mm512_storeu_si512(p, w); }
  static Words multiply_words(Words a, Words b) { return _mm512_mul_epu32(a, b); }
  static Words high_words(Words a) { return _mm512_srli_epi64(a, 32); }
  static Words exclusive_or(Words a, Words b) { return _mm512_xor_si512(a, b); }
};

template <class T>
struct Avx512;

template <>
struct Avx512<float> : Avx512Words {
  using Scalar = float;
  using Vec = __m512;
  static constexpr index_t kLanes = 16;
  static constexpr int kTileRows = 6, kTileVecs = 4;  // 24 sums, 4 operands, 1 broadcast of 32 registers

  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec splat(float x) { return _mm512_set1_ps(x); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static Vec load(const bf16* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static Vec load_pairs(const bf16* even, const bf16* odd) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static void store(f16* p, Vec v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void store(bf16* p, Vec v) {  // round to nearest even; NaN stays NaN. (vcvtneps2bf16 would flush subnormals.)
    const __m512i u = _mm512_castps_si512(v);
    const __m512i tie = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(tie, _mm512_set1_epi32(0x7fff)));
    const __m512i chosen = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
  }
  static Vec in_register(Vec v) {
    asm("" : "+v"(v));
    return v;
  }
  static void store_first(float* p, Vec v, index_t n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), v); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static Vec where_less(Vec a, Vec b, Vec c, Vec d) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), d, c); }
  static Vec shift_to_exponent(Vec v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 23)); }
  static Vec fraction(Vec v) { return _mm512_reduce_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Vec times_power_of_two(Vec v, Vec n) { return _mm512_scalef_ps(v, n); }
  static float sum(Vec v) { return _mm512_reduce_add_ps(v); }
  static float highest(Vec v) { return _mm512_reduce_max_ps(v); }
  static bool all_zero(Vec v) { return _mm512_cmp_ps_mask(v, zero(), _CMP_EQ_OQ) == 0xffff; }
  static Vec sums(const Vec (&r)[16]) {
    Vec two[8], four[4];
    for (int i = 0; i < 8; ++i)
      two[i] = _mm512_add_ps(_mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]));
    for (int i = 0; i < 4; ++i) {
      const __m512d a = _mm512_castps_pd(two[2 * i]), b = _mm512_castps_pd(two[2 * i + 1]);
      four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    return add_quarters(add_quarters(four[0], four[1]), add_quarters(four[2], four[3]));
  }
  static Vec add_quarters(Vec a, Vec b) { return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)); }
  static void transpose(Vec (&r)[16]) {  // 4 x 4 inside the 128-bit quarters, then quarters among each other
    Vec pair[16], quad[16];
    for (int i = 0; i < 16; i += 2) pair[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), pair[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    for (int i = 0; i < 16; i += 4)
      for (int h = 0; h < 2; ++h) {
        quad[i + 2 * h] = _mm512_shuffle_ps(pair[i + h], pair[i + 2 + h], 0x44);
        quad[i + 2 * h + 1] = _mm512_shuffle_ps(pair[i + h], pair[i + 2 + h], 0xee);
      }
    for (int i = 0; i < 4; ++i) {
      const Vec a = _mm512_shuffle_f32x4(quad[i], quad[i + 4], 0x88), b = _mm512_shuffle_f32x4(quad[i], quad[i + 4], 0xdd);
      const Vec c = _mm512_shuffle_f32x4(quad[i + 8], quad[i + 12], 0x88), d = _mm512_shuffle_f32x4(quad[i + 8], quad[i + 12], 0xdd);
      r[i] = _mm512_shuffle_f32x4(a, c, 0x88), r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88), r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
  }
};

template <>
struct Avx512<double> : Avx512Words {
  using Scalar = double;
  using Vec = __m512d;
  static constexpr index_t kLanes = 8;
  static constexpr int kTileRows = 6, kTileVecs = 4;

  static Vec zero() { return _mm512_setzero_pd(); }
  static Vec splat(double x) { return _mm512_set1_pd(x); }
  static Vec load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, Vec v) { _mm512_storeu_pd(p, v); }
  static Vec in_register(Vec v) {
    asm("" : "+v"(v));
    return v;
  }
  static void store_first(double* p, Vec v, index_t n) { _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), v); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm512_add_pd(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_pd(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_pd(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_pd(a, b); }
  static Vec max(Vec a, Vec b) { return _mm512_max_pd(a, b); }
  static Vec min(Vec a, Vec b) { return _mm512_min_pd(a, b); }
  static Vec where_less(Vec a, Vec b, Vec c, Vec d) { return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), d, c); }
  static Vec shift_to_exponent(Vec v) { return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(v), 52)); }
  static Vec fraction(Vec v) { return _mm512_reduce_pd(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Vec times_power_of_two(Vec v, Vec n) { return _mm512_scalef_pd(v, n); }
  static double sum(Vec v) { return _mm512_reduce_add_pd(v); }
  static double highest(Vec v) { return _mm512_reduce_max_pd(v); }
  static bool all_zero(Vec v) { return _mm512_cmp_pd_mask(v, zero(), _CMP_EQ_OQ) == 0xff; }
  static Vec sums(const Vec (&r)[8]) {
    Vec two[4];
    for (int i = 0; i < 4; ++i)
      two[i] = _mm512_add_pd(_mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]));
    return add_quarters(add_quarters(two[0], two[1]), add_quarters(two[2], two[3]));
  }
  static Vec add_quarters(Vec a, Vec b) { return _mm512_add_pd(_mm512_shuffle_f64x2(a, b, 0x88), _mm512_shuffle_f64x2(a, b, 0xdd)); }
  static void transpose(Vec (&r)[8]) {
    Vec pair[8];
    for (int i = 0; i < 8; i += 2) pair[i] = _mm512_unpacklo_pd(r[i], r[i + 1]), pair[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
    for (int i = 0; i < 2; ++i) {
      const Vec a = _mm512_shuffle_f64x2(pair[i], pair[i + 2], 0x88), b = _mm512_shuffle_f64x2(pair[i], pair[i + 2], 0xdd);
      const Vec c = _mm512_shuffle_f64x2(pair[i + 4], pair[i + 6], 0x88), d = _mm512_shuffle_f64x2(pair[i + 4], pair[i + 6], 0xdd);
      r[i] = _mm512_shuffle_f64x2(a, c, 0x88), r[i + 4] = _mm512_shuffle_f64x2(a, c, 0xdd);
      r[i + 2] = _mm512_shuffle_f64x2(b, d, 0x88), r[i + 6] = _mm512_shuffle_f64x2(b, d, 0xdd);
    }
  }
};

}  // namespace
}  // namespace window_matmul::cpu
