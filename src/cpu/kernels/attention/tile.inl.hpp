// src/cpu/kernels/attention/tile.inl.hpp: the matrix products of fused attention, all on one register tile.
//
//   scores  S^T (keys x queries)   scalars k rows   vectors transposed q   steps D          lanes are queries: the softmax needs no
//   output  O (queries x Dv)       scalars P        vectors v rows         steps keys       sums across lanes, and P is the scalars of
//   d_v     (keys x Dv)            scalars P^T      vectors d_out rows     steps queries    the second product as it lies
#pragma once

#include "cpu/attention/block.hpp"
#include "cpu/kernels/copy.inl.hpp"
#include "cpu/kernels/tile.inl.hpp"

namespace window_matmul::cpu {
namespace {

// A block of queries and the keys of a chunk; register tiles of three vectors of queries, and as many keys as there are registers for.
template <Simd S, int QueryBytes, index_t ChunkKeys>
struct ScoreShape {
  static constexpr int kVecs = 3, kKeys = S::kTileRows * S::kTileVecs / kVecs;
  static constexpr index_t kQueries = QueryBytes / sizeof(typename S::Scalar), kChunk = ChunkKeys;
  static constexpr index_t kColumns = kQueries / S::kLanes;  // vectors of queries
  static_assert(kQueries <= kMaxQueryLanes && kQueries % (kVecs * S::kLanes) == 0 && kQueries % S::kTileRows == 0 && kChunk % kKeys == 0);
};
template <Simd S>  // measured: AVX-512 is better with 48 queries of fp32, AVX2 with 96
using ForwardShape = ScoreShape<S, sizeof(typename S::Vec) == 64 ? 192 : 384, kForwardChunk>;
template <Simd S>
using BackwardShape = ScoreShape<S, 384, kBackwardChunk>;

enum class Start { clear, keep, scale };  // what becomes of the sums that are there

template <class T>
struct Sums {  // element (r, n) at data[r * stride + n]; whole vectors may be read and written
  T* data;
  index_t stride;
  Start start = Start::keep;
  const T* factors = nullptr;  // Start::scale: of each row

  Sums at(index_t r, index_t n) const { return {data + r * stride + n, stride, start, factors == nullptr ? nullptr : factors + r}; }
};

// sums = by * (scalars * vectors), in pairs.
template <Simd S, int Rows, int Vecs>
[[gnu::noinline]] void multiply_pairs(const Scalars<bf16>& scalars, Vectors<float> vectors, index_t steps, float by,
                                      const Sums<float>& sums) {
  Tile<S, Rows, Vecs> tile;
  tile.clear();
  tile.accumulate(scalars, vectors, steps);
  tile.multiply(by);
  tile.store(sums.data, sums.stride);
}

// Not inlined: the loop needs all registers for itself. Scalars are passed by reference: a copy reads two words at once that were written
// one by one, and waits until the tile before it is done.
template <Simd S, int Rows, int Vecs, class V = typename S::Scalar, class L = Nothing>
[[gnu::noinline]] void add_tile(const Scalars<typename S::Scalar>& scalars, Vectors<V> vectors, index_t steps,
                                const Sums<typename S::Scalar>& sums, L later = {}) {
  Tile<S, Rows, Vecs> tile;
  if (sums.start == Start::clear)
    tile.clear();
  else if (sums.start == Start::keep)
    tile.load(sums.data, sums.stride);
  else
    tile.load_scaled(sums.data, sums.stride, sums.factors);
  tile.accumulate(scalars, vectors, steps, later);
  tile.store(sums.data, sums.stride);
}

// The same, row by row, without the steps whose scalar is zero: what a row does not see may be infinite or NaN.
template <Simd S, int Vecs, class V>
[[gnu::noinline]] void add_exactly(index_t rows, const Scalars<typename S::Scalar>& scalars, Vectors<V> vectors, index_t steps,
                                   const Sums<typename S::Scalar>& sums) {
  using T = typename S::Scalar;
  for (index_t r = 0; r < rows; ++r) {
    const Sums<T> row = sums.at(r, 0);
    const T* scalar = scalars.data + r * scalars.row_stride;
    add_tile<S, 1, Vecs>({scalar, 0, 0}, vectors, 0, row);
    for (index_t step = 0; step < steps; ++step)
      if (scalar[step * scalars.step_stride] != 0)
        add_tile<S, 1, Vecs, V>({scalar + step * scalars.step_stride, 0, 0}, {vectors.data + step * vectors.step_stride, 0}, 1,
                                {row.data, row.stride});
  }
}

// Calls f.template operator()<Rows>() for a run-time number of rows, 1 .. Most.
template <int Most, class F>
[[gnu::always_inline]] inline void with_rows(index_t rows, F&& f) {
  if constexpr (Most > 1)
    if (rows < Most) return with_rows<Most - 1>(rows, f);
  f.template operator()<Most>();
}

// One tile of at most MostRows rows over all columns: sums(r, n) += sum over steps of scalars(r, step) vectors(step, n). Returns the
// multiply-adds.
template <Simd S, int MostRows = S::kTileRows, class V = typename S::Scalar, class L = Nothing>
index_t add_row_tile(index_t rows, index_t columns, const Scalars<typename S::Scalar>& scalars, Vectors<V> vectors, index_t steps,
                     const Sums<typename S::Scalar>& sums, bool exactly, const L& later = {}) {
  constexpr index_t kPanel = S::kTileVecs * S::kLanes;
  index_t done = 0;
  for (index_t n = 0; n < columns; n += kPanel)
    with_vecs<S::kTileVecs>(ceil_div(smaller(kPanel, columns - n), S::kLanes), [&]<int Vecs>() {
      const Vectors<V> panel{vectors.data + n, vectors.step_stride};
      if (exactly)
        add_exactly<S, Vecs>(rows, scalars, panel, steps, sums.at(0, n));
      else
        with_rows<MostRows>(rows, [&]<int Rows>() { add_tile<S, Rows, Vecs>(scalars, panel, steps, sums.at(0, n), later.at(0, n)); });
      done += rows * Vecs * S::kLanes * steps;
    });
  return done;
}

// Whether every element is finite: then each of them times zero is zero.
template <Simd S>
bool all_finite(const typename S::Scalar* x, index_t count) {  // whole vectors are read
  typename S::Vec probe = S::zero();
  for (index_t i = 0; i < count; i += S::kLanes) probe = S::fma(S::load(x + i), S::zero(), probe);
  return S::all_zero(probe);
}

}  // namespace
}  // namespace window_matmul::cpu
