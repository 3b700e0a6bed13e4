// src/cpu/simd/scalar.hpp: vectors of one lane: what runs everywhere, and the meaning of every word of the vocabulary.
#pragma once

#include <cmath>
#include <type_traits>

#include "half.hpp"

namespace window_matmul::cpu {
namespace {  // internal linkage: see docs/design.md, "One binary, many instruction sets"

// What `dot_pairs` means in each lane. Whatever MXCSR says: rounded to nearest even, and subnormal numbers are zeros as they go in and come
// out.
WINDOW_MATMUL_INLINE float without_subnormal(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }
[[gnu::always_inline]] inline float dot_of_pairs(Pair a, Pair b, float c) {
  const auto number = [](bf16 x) { return without_subnormal(widen(x)); };
  const float odd = without_subnormal(__builtin_fmaf(number(a.odd), number(b.odd), without_subnormal(c)));
  return without_subnormal(__builtin_fmaf(number(a.even), number(b.even), odd));
}

template <class T>
struct Scalar1 {
  using Scalar = T;
  using Vec = T;
  static constexpr index_t kLanes = 1;
  static constexpr int kTileRows = 4, kTileVecs = 2;  // 8 sums, 2 operands, 1 broadcast of 16 registers

  WINDOW_MATMUL_INLINE static Vec zero() { return 0; }
  WINDOW_MATMUL_INLINE static Vec splat(T x) { return x; }
  template <class E>
  WINDOW_MATMUL_INLINE static Vec load(const E* p) {
    return widen(*p);
  }
  template <class E>
  WINDOW_MATMUL_INLINE static void store(E* p, Vec v) {
    *p = narrow<E>(v);
  }
  WINDOW_MATMUL_INLINE static Vec in_register(Vec v) { return v; }
  WINDOW_MATMUL_INLINE static void store_first(T*, Vec, index_t) {}
  WINDOW_MATMUL_INLINE static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
  WINDOW_MATMUL_INLINE static Vec add(Vec a, Vec b) { return a + b; }
  WINDOW_MATMUL_INLINE static Vec sub(Vec a, Vec b) { return a - b; }
  WINDOW_MATMUL_INLINE static Vec mul(Vec a, Vec b) { return a * b; }
  WINDOW_MATMUL_INLINE static Vec div(Vec a, Vec b) { return a / b; }
  WINDOW_MATMUL_INLINE static Vec max(Vec a, Vec b) { return a > b ? a : b; }
  WINDOW_MATMUL_INLINE static Vec min(Vec a, Vec b) { return a < b ? a : b; }
  WINDOW_MATMUL_INLINE static Vec where_less(Vec a, Vec b, Vec c, Vec d) { return a < b ? c : d; }
  WINDOW_MATMUL_INLINE static Vec shift_to_exponent(Vec v) {
    if constexpr (std::is_same_v<T, float>)
      return std::bit_cast<float>(std::bit_cast<std::uint32_t>(v) << 23);
    else
      return std::bit_cast<double>(std::bit_cast<std::uint64_t>(v) << 52);
  }
  WINDOW_MATMUL_INLINE static T sum(Vec v) { return v; }
  WINDOW_MATMUL_INLINE static T highest(Vec v) { return v; }
  WINDOW_MATMUL_INLINE static bool all_zero(Vec v) { return v == 0; }
  WINDOW_MATMUL_INLINE static Vec sums(const Vec (&r)[1]) { return r[0]; }
  WINDOW_MATMUL_INLINE static void transpose(Vec (&)[1]) {}

  using Words = std::uint64_t;
  static constexpr index_t kWordLanes = 1;
  WINDOW_MATMUL_INLINE static Words splat_words(std::uint64_t x) { return x; }
  WINDOW_MATMUL_INLINE static Words load_words(const std::uint64_t* p) { return *p; }
  WINDOW_MATMUL_INLINE static void store_words(std::uint64_t* p, Words w) { *p = w; }
  WINDOW_MATMUL_INLINE static Words multiply_words(Words a, Words b) {
    return std::uint64_t{static_cast<std::uint32_t>(a)} * static_cast<std::uint32_t>(b);
  }
  WINDOW_MATMUL_INLINE static Words high_words(Words a) { return a >> 32; }
  WINDOW_MATMUL_INLINE static Words exclusive_or(Words a, Words b) { return a ^ b; }
};

}  // namespace
}  // namespace window_matmul::cpu
