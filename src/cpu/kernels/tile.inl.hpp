// src/cpu/kernels/tile.inl.hpp: the register tile that all matrix forms share: sums[r][v] += scalars(r, step) * vectors(step, v).
//
//            vectors(step): Vecs vectors        Each step broadcasts Rows scalars and multiplies each with all vectors: Rows * Vecs
//                 [v0 v0 v0][v1 v1 v1]          multiply-adds for Rows + Vecs loads. The three forms differ only in what they feed:
//   scalars(step)  +  +  +   +  +  +              band_out            scalars q(row, n)      vectors k(n, keys)       steps n
//       [ s0 ]     +  +  +   +  +  +              band_in             scalars a(row, key)    vectors v(key, columns)  steps keys
//       [ s1 ]     +  +  +   +  +  +              band_in transposed  scalars a(query, row)  vectors x(query, cols)   steps queries
#pragma once

#include <type_traits>

#include "cpu/block.hpp"
#include "cpu/simd/concept.hpp"

namespace window_matmul::cpu {
namespace {

// Scalars of bf16 are pairs: a step is two of them, which lie together, and its vectors are pairs as well.
template <class S, class E>
inline constexpr bool kInPairs = HasDotPairs<S> && std::is_same_v<E, bf16>;

template <class T>
struct Scalars {  // element (r, step) at data[r * row_stride + step * step_stride]
  const T* data;
  index_t row_stride, step_stride;
};

template <class T>
struct Vectors {  // the row of a step begins at data[step * step_stride]; halves are widened as they are read
  const T* data;
  index_t step_stride;
};

// Rows that are read later: each step asks for as much of one as it reads itself. In one burst they would hold up what is read now.
struct Later {
  std::uintptr_t row = 0, stride = 0, element = 0;  // in bytes; row 0: none

  Later at(index_t i, index_t n) const {
    return {row + static_cast<std::uintptr_t>(i) * stride + static_cast<std::uintptr_t>(n) * element, stride, element};
  }
  template <std::uintptr_t Bytes>
  [[gnu::always_inline]] void ask() const {
#pragma GCC unroll 4
    for (std::uintptr_t n = 0; n < Bytes; n += kCacheLine) __builtin_prefetch(reinterpret_cast<const void*>(row + n), 0, 2);
  }
};
struct Nothing {
  std::uintptr_t row = 0, stride = 0;

  Nothing at(index_t, index_t) const { return {}; }
  template <std::uintptr_t Bytes>
  [[gnu::always_inline]] void ask() const {}
};

WINDOW_MATMUL_INLINE float scalar_at(const float* p) { return *p; }
WINDOW_MATMUL_INLINE double scalar_at(const double* p) { return *p; }
WINDOW_MATMUL_INLINE float scalar_at(const bf16* p) {  // at any address of a bf16
  float pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return pair;
}

// Of scalars of this type.
template <Simd S, class A>
[[gnu::always_inline]] inline typename S::Vec multiply_add(typename S::Vec a, typename S::Vec b, typename S::Vec c) {
  if constexpr (kInPairs<S, A>)
    return S::dot_pairs(a, b, c);
  else
    return S::fma(a, b, c);
}

template <Simd S, int Rows, int Vecs>
struct Tile {
  using T = typename S::Scalar;
  typename S::Vec sums[Rows][Vecs];

  [[gnu::always_inline]] void clear() {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) sums[r][v] = S::zero();
  }

  [[gnu::always_inline]] void load(const T* from, index_t row_stride) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) sums[r][v] = S::load(from + r * row_stride + v * S::kLanes);
  }

  // Row r of the sums multiplied with factors[r] as it is loaded.
  [[gnu::always_inline]] void load_scaled(const T* from, index_t row_stride, const T* factors) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) sums[r][v] = S::mul(S::splat(factors[r]), S::load(from + r * row_stride + v * S::kLanes));
  }

  template <class E>
  [[gnu::always_inline]] void store(E* to, index_t row_stride) const {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) S::store(to + r * row_stride + v * S::kLanes, sums[r][v]);
  }

  template <class A, class V, class L = Nothing>
  [[gnu::always_inline]] void accumulate(Scalars<A> scalars, Vectors<V> vectors, index_t steps, L later = {}) {
    // One pointer for three rows: base, base + stride, base + 2 stride are x86 addresses, so the loop keeps few registers alive.
    constexpr int kBases = (Rows + 2) / 3;
    const A* base[kBases];
    for (int i = 0; i < kBases; ++i) base[i] = scalars.data + 3 * i * scalars.row_stride;
    const V* x = vectors.data;
    for (; steps > 0; --steps, x += vectors.step_stride, later.row += later.stride) {
      later.template ask<Vecs * S::kLanes * sizeof(V)>();
      typename S::Vec operand[Vecs];
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) operand[v] = S::load(x + v * S::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const typename S::Vec scalar = S::splat(scalar_at(base[r / 3] + r % 3 * scalars.row_stride));
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) sums[r][v] = multiply_add<S, A>(scalar, operand[v], sums[r][v]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kBases; ++i) base[i] += scalars.step_stride;
    }
  }

  [[gnu::always_inline]] void multiply(T by) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) sums[r][v] = S::mul(sums[r][v], S::splat(by));
  }

  // No sum is infinite or NaN: then every sum times zero is zero.
  [[gnu::always_inline]] bool all_finite() const {
    typename S::Vec probe[Vecs];
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) probe[v] = S::zero();
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) probe[v] = S::fma(sums[r][v], S::zero(), probe[v]);
    bool finite = true;
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) finite = finite && S::all_zero(probe[v]);
    return finite;
  }
};

// Calls f.template operator()<Vecs>() for a run-time number of vectors, 1 .. Most.
template <int Most, class F>
[[gnu::always_inline]] inline void with_vecs(index_t vecs, F&& f) {
  if constexpr (Most > 1)
    if (vecs < Most) return with_vecs<Most - 1>(vecs, f);
  f.template operator()<Most>();
}

// Covers `rows` with tiles of S::kTileRows rows, then of one row: f.template operator()<Rows>(first_row).
template <Simd S, class F>
[[gnu::always_inline]] inline void for_each_row_tile(Range rows, F&& f) {
  index_t row = rows.begin;
  for (; row + S::kTileRows <= rows.end; row += S::kTileRows) f.template operator()<S::kTileRows>(row);
  for (; row < rows.end; ++row) f.template operator()<1>(row);
}

}  // namespace
}  // namespace window_matmul::cpu
