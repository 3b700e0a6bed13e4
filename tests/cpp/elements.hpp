// tests/cpp/elements.hpp: one element of each dtype, read and written plainly, and what its format can hold.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "window_matmul/tensor.hpp"

namespace window_matmul::testing_tools {

inline constexpr DType kDTypes[] = {DType::f32, DType::bf16, DType::f16, DType::f64};
inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Format {
  int precision;           // bits of the significand, the hidden one included
  int min_exponent;        // of the smallest normal number
  double largest;
  double roundoff;         // of rounding to nearest, relative: 2^-precision
  double smallest_normal;  // 2^min_exponent
  double quantum;          // the smallest subnormal number: smallest_normal * 2 * roundoff
};

inline const Format& format_of(DType dtype) {  // in the order of DType
  static constexpr Format formats[] = {{53, -1022, 0x1.FFFFFFFFFFFFFp1023, 0x1p-53, 0x1p-1022, 0x1p-1074},
                                       {24, -126, 0x1.FFFFFEp127, 0x1p-24, 0x1p-126, 0x1p-149},
                                       {8, -126, 0x1.FEp127, 0x1p-8, 0x1p-126, 0x1p-133},
                                       {11, -14, 65504, 0x1p-11, 0x1p-14, 0x1p-24}};
  return formats[static_cast<int>(dtype)];
}

inline const Format& sum_format_of(DType dtype) { return format_of(dtype == DType::f64 ? DType::f64 : DType::f32); }

// By the bits of a double: those of the C library are calls.
inline double power_of_two(int exponent) { return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52); }
inline int exponent_of(double x) { return static_cast<int>(std::bit_cast<std::uint64_t>(x) >> 52 & 2047) - 1023; }  // of a normal number

// The nearest number that `dtype` holds, ties to even.
inline double rounded(DType dtype, double x) {
  if (dtype == DType::f64) return x;
  if (dtype == DType::f32) return static_cast<double>(static_cast<float>(x));
  if (x == 0 || !std::isfinite(x)) return x;
  const Format& format = format_of(dtype);
  const int exponent = std::max(exponent_of(x), format.min_exponent);
  const double unit = power_of_two(exponent - format.precision + 1);
  const double nearest = std::nearbyint(x / unit) * unit;
  return std::abs(nearest) > format.largest ? std::copysign(kInf, x) : nearest;
}

inline double half_from_bits(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = (bits >> 15) != 0 ? -1 : 1;
  if (exponent == 31) return fraction != 0 ? kNaN : sign * kInf;
  return exponent == 0 ? sign * fraction * 0x1p-24 : sign * (1024 + fraction) * power_of_two(exponent - 25);
}

inline std::uint16_t half_to_bits(double x) {  // x is one of rounded()'s
  const unsigned sign = std::signbit(x) ? 0x8000u : 0u;
  const double size = std::abs(x);
  if (std::isnan(x)) return 0x7E00;
  if (std::isinf(x)) return static_cast<std::uint16_t>(sign | 0x7C00u);
  if (size < 0x1p-14) return static_cast<std::uint16_t>(sign | static_cast<unsigned>(size * 0x1p24));
  const int exponent = exponent_of(size);
  const auto fraction = static_cast<unsigned>(size * power_of_two(10 - exponent)) - 1024u;
  return static_cast<std::uint16_t>(sign | static_cast<unsigned>(exponent + 15) << 10 | fraction);
}

template <class T>
T read_as(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline double load(DType dtype, const std::byte* at) {
  switch (dtype) {
    case DType::f64:
      return read_as<double>(at);
    case DType::f32:
      return static_cast<double>(read_as<float>(at));
    case DType::bf16:
      return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(read_as<std::uint16_t>(at)) << 16));
    case DType::f16:
      return half_from_bits(read_as<std::uint16_t>(at));
  }
  return kNaN;
}

inline void store(DType dtype, double value, std::byte* at) {
  const double x = rounded(dtype, value);
  const auto single = static_cast<float>(x);
  const std::uint16_t half = dtype == DType::f16 ? half_to_bits(x) : static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(single) >> 16);
  const void* from = dtype == DType::f64 ? static_cast<const void*>(&x) : dtype == DType::f32 ? static_cast<const void*>(&single) : &half;
  std::memcpy(at, from, size_of(dtype));
}

}  // namespace window_matmul::testing_tools
