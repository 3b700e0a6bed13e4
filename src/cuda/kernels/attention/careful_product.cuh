// src/cuda/kernels/attention/careful_product.cuh: weights times lines that may hold infinities or NaN: zero times those is NaN.
#pragma once

#include "cuda/kernels/attention/product.cuh"

namespace window_matmul::cuda {

template <class E, class Product, int Dim>
WINDOW_MATMUL_DEVICE void add_what_counts(typename Product::Sums& sums, const typename Product::Sum (&weight)[2], std::uint32_t tile,
                                          int line) {
  constexpr int kPerChunk = 16 / sizeof(E);
  for_each_fragment(sums, [&](typename Product::Sum(&two)[4], int fragment) {  // rarely needed: few registers are worth more than speed
    WINDOW_MATMUL_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int column = Product::column_of(2 * fragment + e);
      const auto at = chunk_offset<Product::kLine>(line, column / kPerChunk);
      const typename Product::Sum value =
          widen(load_shared<E>(tile + at + static_cast<std::uint32_t>(column % kPerChunk * int{sizeof(E)})));
      WINDOW_MATMUL_UNROLL
      for (int h = 0; h < 2; ++h)
        if (weight[h] != 0) two[2 * h + e] = fused_multiply_add(weight[h], value, two[2 * h + e]);
    }
  });
}

template <class Sum>
WINDOW_MATMUL_DEVICE void swap_columns(Sum (&four)[4]) {
  const Sum first = four[0], third = four[2];
  four[0] = four[1], four[1] = first, four[2] = four[3], four[3] = third;
}

// The same as accumulate, but a weight of zero leaves out whatever its line holds: zero times infinity is NaN.
template <class E, class Product, int Dim>
WINDOW_MATMUL_DEVICE void accumulate_what_counts(typename Product::Sums& sums, typename Product::Scores& s, std::uint32_t tile) {
  using Sum = typename Product::Sum;
  for_each_fragment(s, [&](Sum(&scores)[4], int fragment) {
    WINDOW_MATMUL_NO_UNROLL
    for (int owner = 0; owner < 4; ++owner) {
      WINDOW_MATMUL_NO_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int from = (lane_index() & ~3) + owner;
        const Sum weight[2] = {shuffle(scores[0], from), shuffle(scores[2], from)};
        add_what_counts<E, Product, Dim>(sums, weight, tile, 8 * fragment + 2 * owner + e);
        swap_columns(scores);
      }
    }
  });
}

}  // namespace window_matmul::cuda
