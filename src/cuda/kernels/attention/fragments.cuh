// src/cuda/kernels/attention/fragments.cuh: scores and sums in the registers of a warp, and what is done to all of them.
//
// A fragment is 16 rows of 8 columns, four numbers of each lane: lane l has the rows g = l / 4 and g + 8 (product.cuh).
#pragma once

#include "cuda/kernels/launch.hpp"
#include "cuda/primitives/primitives.hpp"

namespace window_matmul::cuda {

struct Groups {  // [begin, end)
  int begin, end;
  WINDOW_MATMUL_DEVICE bool has(int group) const { return begin <= group && group < end; }
  WINDOW_MATMUL_DEVICE bool empty() const { return end <= begin; }
};

WINDOW_MATMUL_DEVICE int lane_index() { return thread_index() % kWarp; }
// The same, but what is computed from it is computed again rather than kept.
WINDOW_MATMUL_DEVICE int fresh_lane_index() {
  int lane = lane_index();
  return forget(lane), lane;
}
WINDOW_MATMUL_DEVICE int warp_index() { return thread_index() / kWarp; }

template <class Sum, int Fragments>
WINDOW_MATMUL_DEVICE void clear(Sum (&fragments)[Fragments][4]) {
  WINDOW_MATMUL_UNROLL
  for (auto& fragment : fragments) {
    WINDOW_MATMUL_UNROLL
    for (Sum& s : fragment) s = 0;
  }
}

// Sums multiplied with a factor of each row.
template <class Sum, int Fragments>
WINDOW_MATMUL_DEVICE void scale_rows(Sum (&sums)[Fragments][4], const Sum (&factor)[2]) {
  WINDOW_MATMUL_UNROLL
  for (auto& fragment : sums) {
    WINDOW_MATMUL_UNROLL
    for (int i = 0; i < 4; ++i) fragment[i] *= factor[i / 2];
  }
}

// Zero times each is zero, or else NaN.
template <class Sum, int Fragments>
WINDOW_MATMUL_DEVICE bool are_finite(const Sum (&fragments)[Fragments][4]) {
  Sum nothing = 0;
  WINDOW_MATMUL_UNROLL
  for (int n = 0; n < 4 * Fragments; ++n) nothing = fused_multiply_add(fragments[n / 4][n % 4], Sum{0}, nothing);
  return nothing == 0;
}

// Each fragment moves up by one, the first becomes the last.
template <class Sum, int Fragments>
WINDOW_MATMUL_DEVICE void rotate(Sum (&s)[Fragments][4]) {
  WINDOW_MATMUL_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Sum first = s[0][i];
    WINDOW_MATMUL_UNROLL
    for (int next = 1; next < Fragments; ++next) s[next - 1][i] = s[next][i];
    s[Fragments - 1][i] = first;
  }
}

// f(scores of a fragment, its number), one after another in one piece of code, for phases that take many instructions a score. Registers
// have no numbers at run time, so the fragments move up by one each time.
template <class Sum, int Fragments, class F>
WINDOW_MATMUL_DEVICE void for_each_fragment(Sum (&s)[Fragments][4], F&& f) {
  WINDOW_MATMUL_NO_UNROLL
  for (int fragment = 0; fragment < Fragments; ++fragment) {
    f(s[0], fragment);
    rotate(s);
  }
}

}  // namespace window_matmul::cuda
