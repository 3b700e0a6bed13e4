// src/cuda/kernels/attention/running_softmax.cuh: the maximum and the sum of two rows of a lane, tile after tile.
#pragma once

#include "cuda/kernels/attention/scores.cuh"

namespace window_matmul::cuda {

// The softmax of two rows of a lane, so far: `highest` in the units of the scores, which `factor` takes to those of log 2.
template <class Sum>
struct RunningSoftmax {
  Sum highest[2] = {minus_infinity<Sum>(), minus_infinity<Sum>()};
  Sum total[2] = {0, 0};  // of this lane's columns

  WINDOW_MATMUL_DEVICE static Sum of_four(Sum x, bool adds) {
    WINDOW_MATMUL_UNROLL
    for (int mask = 1; mask <= 2; mask *= 2) {
      const Sum other = shuffle_xor(x, mask);
      x = adds ? x + other : maximum(x, other);
    }
    return x;
  }
  WINDOW_MATMUL_DEVICE Sum offset(int h, Sum factor) const {  // -inf - -inf is no number
    return highest[h] == minus_infinity<Sum>() ? Sum{0} : highest[h] * factor;
  }

  // Scores become weights 2^(score - highest). `rescale`: what earlier sums are to be multiplied with.
  template <int Fragments>
  WINDOW_MATMUL_DEVICE void take(Sum (&s)[Fragments][4], Sum factor, Sum (&rescale)[2]) {
    WINDOW_MATMUL_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Sum before = highest[h];
      WINDOW_MATMUL_UNROLL
      for (int n = 0; n < 2 * Fragments; ++n) highest[h] = maximum(highest[h], s[n / 2][2 * h + n % 2]);
      highest[h] = of_four(highest[h], false);
      const Sum below = offset(h, factor);
      rescale[h] = power_of_two(fused_multiply_add(before, factor, -below));
      Sum sum = 0;
      WINDOW_MATMUL_UNROLL
      for (int n = 0; n < 2 * Fragments; ++n) {
        Sum& weight = s[n / 2][2 * h + n % 2];
        sum += weight = power_of_two(fused_multiply_add(weight, factor, -below));
      }
      total[h] = fused_multiply_add(total[h], rescale[h], sum);
    }
  }
};

}  // namespace window_matmul::cuda
