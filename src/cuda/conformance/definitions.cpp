// src/cuda/conformance/definitions.cpp: what the little kernels read, and what they must make of it, written out without any primitive.
#include "cuda/conformance/definitions.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cuda/conformance/bytes.hpp"
#include "half.hpp"

namespace window_matmul::cuda::conformance {
namespace {

// ---- inputs -------------------------------------------------------------------------------------------------------------------------

int from_to(Random& random, int low, int high) { return low + static_cast<int>(random() % static_cast<std::uint64_t>(high - low + 1)); }

template <class T>
void values_and_lanes(Random& random, std::byte* in, std::size_t) {
  any_bits(random, in, 64 * sizeof(T));
  for (int i = 0; i < 64; ++i) put(in + 64 * sizeof(T), i, static_cast<std::uint32_t>(from_to(random, 0, 31)));
}

// Whole numbers times a power of two, so small that every sum of products is exact in any order: results are equal bit for bit.
// Every other time they are as large as that allows, so that all bits of the factors count.
template <class E>
void factors(Random& random, std::byte* in, int count, int most, int exponent) {
  if (random() % 2 == 0) most = 8;
  for (int i = 0; i < count; ++i) {
    const double x = std::ldexp(from_to(random, -most, most), exponent);
    if constexpr (std::is_same_v<E, double>)
      put(in, i, x);
    else
      put(in, i, narrow<E>(static_cast<float>(x)));
  }
}

template <class E, int Most>
void exact_products(Random& random, std::byte* in, std::size_t) {
  const int a = from_to(random, -3, 3), b = from_to(random, -3, 3);
  factors<E>(random, in, 256, Most, a), factors<E>(random, in + 512, 128, Most, b), factors<float>(random, in + 768, 128, 1000, a + b);
}

template <int Precision>
void finite_halves(Random& random, std::byte* in, std::size_t) {
  constexpr std::uint32_t kInfinity = 0x7fffu & ~((1u << (Precision - 1)) - 1u);
  for (int i = 0; i < 512; ++i) {
    auto bits = static_cast<std::uint32_t>(random());
    if ((bits & kInfinity) == kInfinity) bits &= ~kInfinity;  // an infinity or a NaN becomes subnormal
    put(in, i, static_cast<std::uint16_t>(bits));
  }
}

template <class E>
void exact_or_not_finite(Random& random, std::byte* in, std::size_t bytes) {
  exact_products<E, 8>(random, in, bytes);
  constexpr float kBad[] = {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()};
  for (int n = 0; n < 4; ++n) put(in, from_to(random, 0, 383), narrow<E>(kBad[from_to(random, 0, 2)]));
}

void exact_products_tf32(Random& random, std::byte* in, std::size_t) {
  factors<float>(random, in, 128, 1023, 0), factors<float>(random, in + 512, 64, 1023, 0), factors<float>(random, in + 768, 128, 1000, 0);
  for (int i = 0; i < 192; ++i)  // bits below those that are read
    put(in, i, get<std::uint32_t>(in, i) | static_cast<std::uint32_t>(from_to(random, 0, 0x1fff)));
}

void exact_products_f64(Random& random, std::byte* in, std::size_t) {
  factors<double>(random, in, 64, 1 << 20, 0), factors<double>(random, in + 512, 64, 1 << 30, 0);
}

// Of any magnitude up to 2^most; no NaN.
template <class T, int Most>
void finite_numbers(Random& random, std::byte* in, std::size_t bytes) {
  std::uniform_real_distribution<double> fraction(-2, 2);
  for (int i = 0; i < static_cast<int>(bytes / sizeof(T)); ++i)
    put(in, i, static_cast<T>(std::ldexp(fraction(random), from_to(random, -Most, Most - 1))));
}

// Numbers for rounding: any, those whose low bits are a tie or beside one, the largest, the smallest, infinities.
void numbers_to_round(Random& random, std::byte* in, std::size_t bytes) {
  for (int i = 0; i < static_cast<int>(bytes / 4); ++i) {
    std::uint32_t bits = static_cast<std::uint32_t>(random());
    const int kept = random() % 2 == 0 ? 16 : 13;  // bits below the fractions of bfloat16 and float16
    if (i % 4 != 0) bits = (bits >> kept << kept) | (1u << (kept - 1));
    if (i % 4 == 2) bits += static_cast<std::uint32_t>(from_to(random, -1, 1));
    if (i % 3 == 0) bits = (bits & 0x807fffffu) | static_cast<std::uint32_t>(from_to(random, 127 - 26, 127 + 17)) << 23;  // near float16
    if ((bits & 0x7fffffffu) > 0x7f800000u) bits &= 0xff800000u;  // a NaN: its payload is nobody's business
    put(in, i, bits);
  }
}

template <class T>
void some_not_finite(Random& random, std::byte* in, std::size_t bytes) {
  any_bits(random, in, bytes);
  constexpr T kInf = std::numeric_limits<T>::infinity(), kMost = std::numeric_limits<T>::max();
  const T special[] = {kInf, -kInf, std::numeric_limits<T>::quiet_NaN(), kMost, -kMost, std::numeric_limits<T>::denorm_min(), T(0)};
  for (int i = 0; i < 7; ++i) put(in, 9 * i, special[i]);
}

// ---- results ------------------------------------------------------------------------------------------------------------------------

void indices(const std::byte*, std::byte* out) {
  for (std::uint32_t i = 0; i < 192; ++i) {
    const std::uint32_t row[3] = {i % 64, i / 64, 3};
    std::memcpy(out + 12 * i, row, 12);
  }
}

void round_the_block(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 320; ++i) put(out, i, get<std::uint32_t>(in, (i + 2 * 71) % 160));
}
void round_each_pair(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 128; ++i) put(out, i, get<std::uint32_t>(in, i / 64 * 64 + (i + 33) % 64));
}
void across_the_warp(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 64; ++i) put(out, i, get<std::uint32_t>(in, i ^ 13));
}

template <class Bits, bool Xor>
void shuffled(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 64; ++i) {
    const int lane = static_cast<int>(get<std::uint32_t>(in + 64 * sizeof(Bits), Xor ? 0 : i));
    put(out, i, get<Bits>(in, Xor ? i ^ lane : i / 32 * 32 + lane));
  }
}

template <int Bytes, int Times>
void the_same(const std::byte* in, std::byte* out) {
  for (std::size_t n = 0; n < Times; ++n) std::memcpy(out + n * Bytes, in, Bytes);
}

template <int Bytes>
void valid_pairs(const std::byte* in, std::byte* out) {
  for (int thread = 0; thread < 32; ++thread)
    for (int i = 0; i < Bytes; ++i) put(out, Bytes * thread + i, i / 2 < thread % (Bytes / 2 + 1) ? in[Bytes * thread + i] : std::byte{0});
}

void turned_groups(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 192; ++i) std::memcpy(out + 16 * i, in + 16 * (i / 64 * 64 + (i % 64 + 17) % 64), 16);
}

// ldmatrix.x4: register m of lane l: row l / 4 of matrix m, elements 2 (l % 4) and the next; lane l names row l % 8 of matrix l / 8.
// Transposed: rows 2 (l % 4) and the next, element l / 4. stmatrix is the inverse of the first.
template <bool Transposed, bool Store>
void matrices(const std::byte* in, std::byte* out) {
  for (int l = 0; l < 32; ++l)
    for (int m = 0; m < 4; ++m)
      for (int e = 0; e < 2; ++e) {
        const int outer = l / 4, inner = 2 * (l % 4) + e;
        const int in_registers = 8 * l + 2 * m + e;
        const int in_memory = 64 * m + (Transposed ? 8 * inner + outer : 8 * outer + inner);
        if (Store)
          put(out, in_memory, get<std::uint16_t>(in, in_registers));
        else
          put(out, in_registers, get<std::uint16_t>(in, in_memory));
      }
}

// D = A B + C, row by row; `read` gives a factor as the tensor cores see it.
template <class Sum, int Rows, int Depth, class Read>
void product(const std::byte* a, const std::byte* b, const std::byte* c, std::byte* out, Read read) {
  for (int row = 0; row < Rows; ++row)
    for (int column = 0; column < 8; ++column) {
      double sum = static_cast<double>(get<Sum>(c, row * 8 + column));
      for (int k = 0; k < Depth; ++k) sum += read(a, row * Depth + k) * read(b, k * 8 + column);
      put(out, row * 8 + column, static_cast<Sum>(sum));
    }
}
template <class E>
void product_of_halves(const std::byte* in, std::byte* out) {
  product<float, 16, 16>(in, in + 512, in + 768, out, [](const std::byte* p, int i) { return static_cast<double>(widen(get<E>(p, i))); });
}
template <class E>
void finite_products(const std::byte* in, std::byte* out) {
  product_of_halves<E>(in, out);
  for (int i = 0; i < 128; ++i) put(out, i, std::uint32_t{std::isfinite(get<float>(out, i))});
}
void product_tf32(const std::byte* in, std::byte* out) {
  product<float, 16, 8>(in, in + 512, in + 768, out, [](const std::byte* p, int i) {
    return static_cast<double>(std::bit_cast<float>(get<std::uint32_t>(p, i) & 0xffffe000u));
  });
}
void product_f64(const std::byte* in, std::byte* out) {
  product<double, 8, 4>(in, in + 256, in + 512, out, [](const std::byte* p, int i) { return get<double>(p, i); });
}

// The bits of the nearest number of a format, ties to even: significands of `precision` bits, smallest normal number 2^min_exponent.
std::uint32_t nearest(double x, int precision, int min_exponent) {
  const auto infinity = static_cast<std::uint32_t>(3 - 2 * min_exponent) << (precision - 1);
  const std::uint32_t sign = std::signbit(x) ? 0x8000u : 0u;
  if (x == 0 || std::isinf(x)) return sign | (x == 0 ? 0 : infinity);
  const int exponent = std::max(std::ilogb(x), min_exponent);
  const auto units = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(std::abs(x), precision - 1 - exponent)));
  const std::uint64_t bits = (static_cast<std::uint64_t>(exponent - min_exponent) << (precision - 1)) + units;
  return sign | static_cast<std::uint32_t>(std::min<std::uint64_t>(bits, infinity));
}
template <int Precision, int MinExponent>
void packed(const std::byte* in, std::byte* out) {
  const auto half = [&](int i) { return nearest(static_cast<double>(get<float>(in, i)), Precision, MinExponent); };
  for (int i = 0; i < 256; ++i) put(out, i, half(2 * i) | half(2 * i + 1) << 16);
}

template <int Precision, int MinExponent>
void unpacked(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 512; ++i) {
    const std::uint32_t bits = get<std::uint16_t>(in, i), units = bits & ((1u << (Precision - 1)) - 1u);
    const int exponent = static_cast<int>((bits & 0x7fffu) >> (Precision - 1));
    const std::uint32_t significand = exponent == 0 ? units : units | 1u << (Precision - 1);
    const double magnitude = std::ldexp(significand, std::max(exponent, 1) - 1 + MinExponent - (Precision - 1));
    put(out, i, static_cast<float>(bits >> 15 != 0 ? -magnitude : magnitude));
  }
}

template <class T>
void multiply_add(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 256; ++i) put(out, i, std::fma(get<T>(in, 3 * i), get<T>(in, 3 * i + 1), get<T>(in, 3 * i + 2)));
}
template <class T>
void finite(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 256; ++i) put(out, i, std::uint32_t{std::isfinite(get<T>(in, i))});
}

}  // namespace

const std::vector<Definition>& definitions() {
  using U32 = std::uint32_t;
  using U64 = std::uint64_t;
  static const std::vector<Definition> all = with_functions({
      {"thread_index, block_index, grid_size", any_bits, indices},
      {"sync_threads", any_bits, round_the_block},
      {"sync_named", any_bits, round_each_pair},
      {"sync_warp", any_bits, across_the_warp},
      {"shuffle of float32", values_and_lanes<U32>, shuffled<U32, false>},
      {"shuffle of float64", values_and_lanes<U64>, shuffled<U64, false>},
      {"shuffle of uint32", values_and_lanes<U32>, shuffled<U32, false>},
      {"shuffle_xor of float32", values_and_lanes<U32>, shuffled<U32, true>},
      {"shuffle_xor of float64", values_and_lanes<U64>, shuffled<U64, true>},
      {"shuffle_xor of uint32", values_and_lanes<U32>, shuffled<U32, true>},
      {"load_global, store_global", any_bits, the_same<512, 4>},
      {"load_shared, store_shared", any_bits, the_same<1024, 1>},
      {"copy_async of 4", any_bits, valid_pairs<4>},
      {"copy_async of 8", any_bits, valid_pairs<8>},
      {"copy_async of 16", any_bits, valid_pairs<16>},
      {"commit_copies, wait_copies", any_bits, turned_groups},
      {"load_matrices", any_bits, matrices<false, false>},
      {"load_matrices_transposed", any_bits, matrices<true, false>},
      {"store_matrices", any_bits, matrices<false, true>},
      {"mma of bfloat16", exact_products<bf16, 255>, product_of_halves<bf16>},
      {"mma of float16", exact_products<f16, 512>, product_of_halves<f16>},
      {"mma of bfloat16 that is not finite", exact_or_not_finite<bf16>, finite_products<bf16>},
      {"mma of float16 that is not finite", exact_or_not_finite<f16>, finite_products<f16>},
      {"mma_tf32", exact_products_tf32, product_tf32},
      {"mma_f64", exact_products_f64, product_f64},
      {"pack of bfloat16", numbers_to_round, packed<8, -126>},
      {"pack of float16", numbers_to_round, packed<11, -14>},
      {"unpack of bfloat16", finite_halves<8>, unpacked<8, -126>},
      {"unpack of float16", finite_halves<11>, unpacked<11, -14>},
      {"fused_multiply_add of float32", finite_numbers<float, 100>, multiply_add<float>},
      {"fused_multiply_add of float64", finite_numbers<double, 900>, multiply_add<double>},
      {"is_finite of float32", some_not_finite<float>, finite<float>},
      {"is_finite of float64", some_not_finite<double>, finite<double>},
  });
  return all;
}

}  // namespace window_matmul::cuda::conformance
