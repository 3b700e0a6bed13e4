// src/cpu/simd/avx512bf16.hpp: AVX-512's vocabulary with products of pairs of bf16.
#pragma once

#include "cpu/simd/avx512.hpp"

namespace window_matmul::cpu {
namespace {

template <class T>
struct Avx512Bf16;

template <>
struct Avx512Bf16<float> : Avx512<float> {
  using Avx512<float>::load, Avx512<float>::store;

  static Vec load(const Pair* p) { return _mm512_loadu_ps(p); }
  static void store(bf16* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v)); }
  static Vec dot_pairs(Vec a, Vec b, Vec c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
};

}  // namespace
}  // namespace window_matmul::cpu
