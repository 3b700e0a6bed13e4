// src/cpu/kernels/attention_few.inl.hpp: scores of a few queries (decoding): lanes are the head dim, where lanes of queries would be empty.
//
//   for each query and kLanes keys:   sums[key] += k(key, n .. n + kLanes) * q(n .. n + kLanes)     then the square of sums is transposed
//                                                                                                   and added up: one score a lane
#pragma once

#include "cpu/attention_block.hpp"
#include "cpu/kernels/prefetch.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S>
struct FewQueries {
  using T = typename S::Scalar;
  static constexpr index_t kLanes = S::kLanes;

  const T* queries;  // [count][stride], contiguous rows
  index_t count, stride;
  Prefetcher& ahead;

  // to[c * ld + r] = sum_n k(c, n) queries(r, n) for c < keys; the rest of the first vector of each row is zero. Rows of k are whole
  // vectors.
  void multiply(const T* k, index_t k_stride, index_t keys, index_t dim, T* to, index_t ld) const {
    for (index_t c = 0; c < keys; ++c) S::store(to + c * ld, S::zero());
    for (index_t r = 0; r < count; ++r) {
      index_t c = 0;
      for (; c + kLanes <= keys; c += kLanes) {
        ahead.issue();
        T scores[kLanes];
        S::store(scores, products(k + c * k_stride, k_stride, queries + r * stride, dim));
        for (index_t i = 0; i < kLanes; ++i) to[(c + i) * ld + r] = scores[i];
      }
      for (; c < keys; ++c) to[c * ld + r] = product(k + c * k_stride, queries + r * stride, dim);
    }
  }

 private:
  [[gnu::noinline]] static typename S::Vec products(const T* k, index_t k_stride, const T* q, index_t dim) {
    typename S::Vec sums[kLanes];
#pragma GCC unroll 16
    for (index_t i = 0; i < kLanes; ++i) sums[i] = S::zero();
    for (index_t n = 0; n < dim; n += kLanes) {
      const auto x = S::load(q + n);
#pragma GCC unroll 16
      for (index_t i = 0; i < kLanes; ++i) sums[i] = S::fma(S::load(k + i * k_stride + n), x, sums[i]);
    }
    S::transpose(sums);
#pragma GCC unroll 8
    for (index_t half = kLanes / 2; half > 0; half /= 2)
      for (index_t i = 0; i < half; ++i) sums[i] = S::add(sums[i], sums[i + half]);
    return sums[0];
  }

  static T product(const T* k, const T* q, index_t dim) {
    typename S::Vec sum = S::zero();
    for (index_t n = 0; n < dim; n += kLanes) sum = S::fma(S::load(k + n), S::load(q + n), sum);
    return S::sum(sum);
  }
};

}  // namespace
}  // namespace window_matmul::cpu
