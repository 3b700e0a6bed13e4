// src/cpu/kernels/table.inl.hpp: every kernel for every dtype on one vocabulary: what isa/<isa>.cpp hands out.
#pragma once

#include "cpu/kernels/attention/backward_item.inl.hpp"
#include "cpu/kernels/attention/forward.inl.hpp"
#include "cpu/kernels/band/in.inl.hpp"
#include "cpu/kernels/band/out.inl.hpp"
#include "cpu/kernels/band/softmax.inl.hpp"

namespace window_matmul::cpu {
namespace {

// As many independent sums as the tile of the matrix kernels has: the rate of this loop is the peak that they are measured against.
// A: of the factors; bf16 for pairs.
template <Simd S, class A = typename S::Scalar>
index_t spin(index_t steps) {
  if constexpr (requires(typename S::Vec v) { v.low; }) return 0;  // emulated: a pair, which no register holds
  using T = typename S::Scalar;
  constexpr int kSums = S::kTileRows * S::kTileVecs;
  typename S::Vec sums[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sums[i] = S::splat(static_cast<T>(i));
  typename S::Vec a = S::splat(T{1}), b = S::splat(T{0});
  for (index_t step = 0; step < steps; ++step) {
    asm volatile("" : "+x"(a), "+x"(b));  // the factors stay in registers and are not known
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) {
      if constexpr (kInPairs<S, A>)
        sums[i] = S::dot_pairs(a, b, sums[i]);
      else
        sums[i] = S::fma(sums[i], a, b);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) asm volatile("" : : "x"(sums[i]));
  return (kInPairs<S, A> ? 2 : 1) * steps * kSums * S::kLanes;
}

// Of bf16 alone.
template <HasDotPairs S>
constexpr IsaKernels make_kernels_in_pairs() {
  constexpr int kBf16 = static_cast<int>(DType::bf16);
  IsaKernels kernels{};
  kernels.run[IsaKernels::kBandOut][kBf16] = band_out<S, bf16>;
  kernels.run[IsaKernels::kBandIn][kBf16] = band_in<S, bf16>;
  kernels.run[IsaKernels::kSoftmax][kBf16] = softmax<S, bf16>;
  kernels.run[IsaKernels::kSoftmaxBackward][kBf16] = softmax_backward<S, bf16>;
  kernels.attention[kBf16] = attention_forward<S, bf16>;
  kernels.attention_backward[kBf16] = attention_backward<S, bf16>;
  kernels.spin_f32 = spin<S, bf16>;
  return kernels;
}

template <template <class> class S>
constexpr IsaKernels make_isa_kernels() {
  using D = S<double>;
  using F = S<float>;
  return {{{band_out<D, double>, band_out<F, float>, band_out<F, bf16>, band_out<F, f16>},
           {band_in<D, double>, band_in<F, float>, band_in<F, bf16>, band_in<F, f16>},
           {softmax<D, double>, softmax<F, float>, softmax<F, bf16>, softmax<F, f16>},
           {softmax_backward<D, double>, softmax_backward<F, float>, softmax_backward<F, bf16>, softmax_backward<F, f16>}},
          {attention_forward<D, double>, attention_forward<F, float>, attention_forward<F, bf16>, attention_forward<F, f16>},
          {attention_backward<D, double>, attention_backward<F, float>, attention_backward<F, bf16>, attention_backward<F, f16>},
          spin<F>,
          spin<D>};
}

}  // namespace
}  // namespace window_matmul::cpu
