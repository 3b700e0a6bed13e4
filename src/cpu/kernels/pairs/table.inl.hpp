// src/cpu/kernels/pairs/table.inl.hpp: the kernels of bf16 on tiles: what isa/amx.cpp hands out.
#pragma once

#include "cpu/kernels/pairs/backward.inl.hpp"
#include "cpu/kernels/pairs/forward.inl.hpp"

namespace window_matmul::cpu {
namespace {

// Four independent sums, as many as a product of tiles has. The rate is the peak of bf16.
template <HasTiles S>
index_t spin_tiles(index_t steps) {
  using Tiles = typename S::Tiles;
  Tiles::configure();
  for (index_t step = 0; step < steps; ++step)
    Tiles::template dot<0, 4, 6>(), Tiles::template dot<1, 4, 7>(), Tiles::template dot<2, 5, 6>(), Tiles::template dot<3, 5, 7>();
  Tiles::release();
  return 4 * steps * kTile * kTile * kStep;
}

template <HasTiles S>
constexpr IsaKernels make_pair_kernels() {
  IsaKernels kernels{};
  kernels.attention[static_cast<int>(DType::bf16)] = pair_attention_forward<S>;
  kernels.attention_backward[static_cast<int>(DType::bf16)] = pair_attention_backward<S>;
  kernels.spin_f32 = spin_tiles<S>;
  return kernels;
}

}  // namespace
}  // namespace window_matmul::cpu
