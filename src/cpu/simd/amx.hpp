// src/cpu/simd/amx.hpp: AVX-512's vocabulary with pairs of bf16, and AMX's tiles.
//
// Tiles are written in assembler: GCC 12's intrinsics do not say that they read memory. No compiler keeps anything in tile registers by
// itself.
#pragma once

#include "cpu/simd/avx512.hpp"

namespace window_matmul::cpu {
namespace {

struct AmxTiles {
  static void configure() {
    struct alignas(64) Palette {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    const Palette palette;
    asm volatile("ldtilecfg %0" : : "m"(palette));
  }
  static void release() { asm volatile("tilerelease"); }
  template <int Tile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
  }
  template <int Tile>
  static void load(const void* from, index_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile) : "memory");
  }
  template <int Tile>
  static void store(void* to, index_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(Tile) : "memory");
  }
  template <int Sums, int A, int B>
  static void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
  }
};

template <class T>
struct Amx;

template <>
struct Amx<float> : Avx512<float> {
  using Tiles = AmxTiles;

  static Vec pairs(Vec even, Vec odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                           18, 2, 17, 1, 16, 0);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, _mm512_castps_si512(halves(even, odd))));
  }
  static Vec high_part(Vec v) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static Vec halves(Vec first, Vec second) { return (Vec)_mm512_cvtne2ps_pbh(second, first); }
};

}  // namespace
}  // namespace window_matmul::cpu
