// tests/cpp/pairs_test.cpp: products of pairs of bf16: what they are, and that the emulation and the processor agree with it to the bit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "cases.hpp"
#include "cpu/simd/scalar.hpp"
#include "window_matmul/backends.hpp"
#include "words/dot_pairs.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

bf16 rounded(double x) { return narrow<bf16>(static_cast<float>(x)); }
float dot(double even, double by_even, double odd, double by_odd, double c) {
  return cpu::dot_of_pairs({rounded(even), rounded(odd)}, {rounded(by_even), rounded(by_odd)}, static_cast<float>(c));
}

TEST(Pairs, TheOddProductIsAddedFirstAndEachSumIsRoundedToNearestEven) {
  EXPECT_EQ(dot(1, 1, 0x1p12, 0x1p12, 1), 0x1p24f) << "1 + 2^24 is rounded to 2^24, and so is 2^24 + 1; 1 + 1 + 2^24 would not be";
  EXPECT_EQ(dot(0x1p12, 0x1p12, 1, 1, 1), 0x1p24f + 2) << "the other way around";
  EXPECT_EQ(dot(3, 1, 0x1p12, 0x1p12, 0), 0x1p24f + 4) << "of two as near, the even one";
  EXPECT_EQ(dot(2, 3, 5, -7, 0.5), -28.5f);
}

TEST(Pairs, SubnormalNumbersAreZeros) {
  EXPECT_EQ(dot(0x1p-127, 0x1p127, 0, 0, 1), 1) << "of an operand";
  EXPECT_EQ(dot(0, 0, 0x1p127, 0x1p-127, 1), 1);
  EXPECT_EQ(dot(0, 0, 0x1p-63, 0x1p-64, 0), 0) << "of the first sum";
  EXPECT_EQ(dot(0x1p-63, 0x1p-64, 0, 0, 0), 0) << "of the second";
  EXPECT_EQ(dot(0, 0, 0, 0, 0x1p-130), 0) << "of the third operand";
  EXPECT_EQ(dot(0x1p-63, 0x1p-63, 0, 0, 0), 0x1p-126f) << "the smallest normal number";
  EXPECT_TRUE(std::signbit(dot(-0x1p-63, 0x1p-64, -0x1p-100, 0x1p-100, -0.0))) << "of their sign";
}

#ifdef WINDOW_MATMUL_TEST_WORDS

// Random bits, of which many are such that sums are subnormal, of two near numbers, infinite or NaN.
class Bits {
 public:
  explicit Bits(std::uint64_t seed) : random_(seed) {}

  bf16 half() { return {static_cast<std::uint16_t>(word() >> 16)}; }
  float number() { return std::bit_cast<float>(word()); }

 private:
  std::uint32_t word() {
    const auto bits = static_cast<std::uint32_t>(random_.bits());
    const std::uint32_t mantissa = bits & 0x807fffffu;
    switch (random_.up_to(7)) {
      case 0:
        return mantissa;  // subnormal
      case 1:
        return mantissa | 0x7f800000u;  // NaN
      case 2:
        return (bits & 0x80000000u) | (random_.one_in(2) ? 0x7f800000u : 0u);
      case 3:
        return mantissa | (random_.one_in(2) ? 0x1f800000u : 0x00800000u);  // 2^-64: products are at the end of the normal numbers
      case 4:
        return mantissa | 0x3f800000u;  // 1 to 2
      default:
        return bits;
    }
  }
  Random random_;
};

void expect_as_defined(DotPairs of) {
  constexpr int kRounds = 200'000;
  Bits bits(1);
  Pair a[16], b[16];
  float c[16], got[16];
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < 16; ++i) a[i] = {bits.half(), bits.half()}, b[i] = {bits.half(), bits.half()}, c[i] = bits.number();
    of(a, b, c, got);
    for (int i = 0; i < 16; ++i) {
      const float want = cpu::dot_of_pairs(a[i], b[i], c[i]);
      const bool same = want != want ? got[i] != got[i] : std::bit_cast<std::uint32_t>(got[i]) == std::bit_cast<std::uint32_t>(want);
      ASSERT_TRUE(same) << got[i] << " and not " << want << ": " << widen(a[i].even) << " * " << widen(b[i].even) << " + ("
                        << widen(a[i].odd) << " * " << widen(b[i].odd) << " + " << c[i] << ")";
    }
  }
}

TEST(Pairs, TheEmulationIsTheDefinition) {
  if (!this_device().avx2) GTEST_SKIP() << "needs AVX2";
  expect_as_defined(emulated_dot_pairs);
}

TEST(Pairs, TheInstructionIsTheDefinition) {
  std::uint32_t has = 0;
#if defined(__x86_64__)
  has = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") ? 1 : 0;  // whatever is emulated in the library
#endif
  if (has == 0) GTEST_SKIP() << "needs AVX-512 BF16";
  expect_as_defined(dot_pairs);
}

#endif

}  // namespace
}  // namespace window_matmul
