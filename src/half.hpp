// src/half.hpp: bfloat16 and IEEE half as storage: conversion to and from float, rounding to nearest even.
// By hand: arithmetic through _Float16 needs either F16C flags or a libgcc newer than some systems have.
#pragma once

#include <bit>

#include "window_matmul/tensor.hpp"

namespace window_matmul {

struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};
struct Pair {  // two neighbours, in 32 bits
  bf16 even, odd;
};

WINDOW_MATMUL_INLINE double widen(double x) { return x; }
WINDOW_MATMUL_INLINE float widen(float x) { return x; }
WINDOW_MATMUL_INLINE float widen(bf16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
WINDOW_MATMUL_INLINE float widen(Pair x) { return std::bit_cast<float>(x); }  // its bits, as lanes of floats hold them
WINDOW_MATMUL_INLINE float widen(f16 x) {
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude << 13));            // inf, NaN
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + ((127u - 15u) << 23)));  // normal
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24f));
}

template <class E>
struct Narrow;
template <>
struct Narrow<double> {
  WINDOW_MATMUL_INLINE static double from(double x) { return x; }
};
template <>
struct Narrow<float> {
  WINDOW_MATMUL_INLINE static float from(float x) { return x; }
};
template <>
struct Narrow<bf16> {
  WINDOW_MATMUL_INLINE static bf16 from(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
    if (x != x) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
    return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
  }
};
template <>
struct Narrow<f16> {
  WINDOW_MATMUL_INLINE static f16 from(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    std::uint32_t h = 0;
    if (magnitude > 0x7f800000u) {
      h = 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
      h = 0x7c00u;  // rounds to infinity from 65520 on
    } else if (magnitude >= 0x38800000u) {
      h = (magnitude - ((127u - 15u) << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    } else {  // subnormal: adding 0.5 leaves x in units of 2^-24 in the low bits, rounded to nearest even by the adder
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      h = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5f);
    }
    return {static_cast<std::uint16_t>(sign | h)};
  }
};
// narrow<E>(x) rounds a sum to the element type E.
template <class E, class T>
WINDOW_MATMUL_INLINE E narrow(T x) {
  return Narrow<E>::from(x);
}

}  // namespace window_matmul
