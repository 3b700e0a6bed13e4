// src/cpu/kernels/attention_few.inl.hpp: scores of a few queries (decoding): lanes are the head dim, where lanes of queries would be empty.
//
//   kFewQueries queries and as many keys as fill a square of vectors:   sums[key, query] += k(key, n ..) * q(query, n ..)
//   The square is transposed and its rows added up: one vector, whose lanes are the scores, key by key.
#pragma once

#include "cpu/attention_block.hpp"
#include "cpu/kernels/copy.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S>
struct FewQueries {
  using T = typename S::Scalar;
  static constexpr index_t kLanes = S::kLanes, kRows = kFewQueries, kKeys = larger(kLanes / kRows, 1);
  static constexpr bool kFits = kLanes % kRows == 0;  // else a vector holds too few lanes

  const T* queries;  // [kFewQueries][stride], contiguous rows, zeros where there are fewer
  index_t stride;

  // to[c * ld + r] = sum_n k(c, n) queries(r, n) for c < keys; the rest of the first vector of each row is zero. Rows of k are whole
  // vectors.
  void multiply(const T* k, index_t k_stride, index_t keys, index_t dim, T* to, index_t ld) const {
    for (index_t c = 0; c < keys;) {
      if (keys >= kKeys && c + kKeys > keys) c = keys - kKeys;  // the last square overlaps its neighbour
      T scores[kLanes];
      S::store(scores, keys >= kKeys ? products<kKeys>(k + c * k_stride, k_stride, dim) : products<1>(k + c * k_stride, k_stride, dim));
      const index_t done = keys >= kKeys ? kKeys : 1;
      for (index_t i = 0; i < done; ++i) {
        S::store(to + (c + i) * ld, S::zero());
        for (index_t r = 0; r < kRows; ++r) to[(c + i) * ld + r] = scores[i * kRows + r];
      }
      c += done;
    }
  }

 private:
  template <index_t Keys>
  [[gnu::noinline]] typename S::Vec products(const T* k, index_t k_stride, index_t dim) const {
    typename S::Vec sums[kLanes];
#pragma GCC unroll 16
    for (index_t i = 0; i < kLanes; ++i) sums[i] = S::zero();
    for (index_t n = 0; n < dim; n += kLanes) {
      typename S::Vec q[kRows];
#pragma GCC unroll 4
      for (index_t r = 0; r < kRows; ++r) q[r] = S::load(queries + r * stride + n);
#pragma GCC unroll 4
      for (index_t i = 0; i < Keys; ++i) {
        const auto key = S::load(k + i * k_stride + n);
#pragma GCC unroll 4
        for (index_t r = 0; r < kRows; ++r) sums[i * kRows + r] = S::fma(key, q[r], sums[i * kRows + r]);
      }
    }
    S::transpose(sums);
#pragma GCC unroll 4
    for (index_t half = kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
      for (index_t i = 0; i < half; ++i) sums[i] = S::add(sums[i], sums[i + half]);
    return sums[0];
  }
};

}  // namespace
}  // namespace window_matmul::cpu
