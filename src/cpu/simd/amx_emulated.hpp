// src/cpu/simd/amx_emulated.hpp: pairs of bf16 and AMX's tiles in portable arithmetic, equal to the instructions' to the bit. For tests.
#pragma once

#include <bit>
#include <cstring>

#include "cpu/simd/avx512_emulated.hpp"
#include "cpu/simd/scalar.hpp"

namespace window_matmul::cpu {
namespace {

struct EmulatedTiles {
  using Words = Avx512Emulated<float>;
  using Vec = Words::Vec;
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
  template <int Sums, int A, int B>
  static void dot() {
    static_assert(Sums != A && Sums != B && A != B);
    Vec b[2 * kColumns];
    for (int step = 0; step < 2 * kColumns; ++step) b[step] = elements(at(B)[step / 2], step % 2);
    for (int r = 0; r < kRows; ++r) {
      Vec of[2] = {Words::zero(), Words::zero()};  // the sums of even and of odd elements
      for (int step = 0; step < 2 * kColumns; ++step) {
        const Vec a = Words::splat(element(at(A)[r][step / 2], step % 2));
        of[step % 2] = without_subnormals(Words::fma(a, b[step], of[step % 2]));
      }
      float row[kColumns];
      std::memcpy(row, at(Sums)[r], sizeof row);
      const Vec sum = Words::add(without_subnormals(Words::load(row)), without_subnormals(Words::add(of[0], of[1])));
      Words::store(row, without_subnormals(sum));
      std::memcpy(at(Sums)[r], row, sizeof row);
    }
  }

 private:
  static Tile& at(int tile) {
    if (!configured) __builtin_trap();  // as the processor does
    return tiles[tile];
  }
  static float element(std::uint32_t pair, int odd) {
    return without_subnormal(std::bit_cast<float>(odd != 0 ? pair & 0xffff0000u : pair << 16));
  }
  static Vec elements(const std::uint32_t (&pairs)[kColumns], int odd) {
    float lanes[kColumns];
    for (int n = 0; n < kColumns; ++n) lanes[n] = element(pairs[n], odd);
    return Words::load(lanes);
  }
  static Vec without_subnormals(Vec v) {  // their sign stays
    const Vec size = Words::max(v, Words::sub(Words::zero(), v));
    return Words::where_less(size, Words::splat(0x1p-126f), Words::mul(v, Words::zero()), v);
  }
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
  static Vec high_part(Vec v) {
    float lanes[kLanes];
    Avx512Emulated<float>::store(lanes, v);
    for (float& x : lanes) x = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0xffff0000u);
    return load(lanes);
  }
  static Vec halves(Vec first, Vec second) {
    bf16 row[2 * kLanes];
    round(first, row), round(second, row + kLanes);
    std::uint32_t lanes[kLanes];
    for (index_t i = 0; i < kLanes; ++i) lanes[i] = pair(row[2 * i], row[2 * i + 1]);
    return loaded(lanes);
  }

 private:
  static std::uint32_t pair(bf16 even, bf16 odd) { return even.bits | std::uint32_t{odd.bits} << 16; }
  static Vec loaded(const std::uint32_t (&lanes)[kLanes]) {
    float bits[kLanes];
    std::memcpy(bits, lanes, sizeof bits);
    return load(bits);
  }
  static void round(Vec v, bf16* to) {
    float lanes[kLanes];
    store(lanes, v);
    for (index_t i = 0; i < kLanes; ++i) to[i] = narrow<bf16>(without_subnormal(lanes[i]));
  }
};

}  // namespace
}  // namespace window_matmul::cpu
