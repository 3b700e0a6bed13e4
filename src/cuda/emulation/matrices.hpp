// src/cuda/emulation/matrices.hpp: the matrix instructions of a warp; each lane brings one of these structures.
#pragma once

#include <cstdint>

#include "cuda/emulation/block.hpp"

namespace window_matmul::cuda::emulation {

// Lane l holds elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each 8 x 8 matrix; its offset names row l % 8 of matrix l / 8.
struct Matrices {
  std::uint32_t* r;
  std::uint32_t offset;
  std::uint16_t row[8] = {};
};
void load_matrices(Block& block, void* const* lanes);
void load_matrices_transposed(Block& block, void* const* lanes);
void store_matrices(Block& block, void* const* lanes);

// D (M x 8) += A (M x K) B (K x 8). With g = lane / 4 and t = lane % 4, registers hold P elements each: D: row g + 8h, columns 2t, 2t + 1.
// A: row g + 8 (r % 2), columns P t + 4 P (r / 2) and on.  B: column g, rows P t + 4 P r and on.
struct Product16x8 {
  float* d;
  const std::uint32_t* a;
  std::uint32_t b[2];
};
template <class E>  // bf16 or f16, K = 16; or float, of which the tensor cores read 10 bits of fraction, K = 8
void multiply(Block& block, void* const* lanes);

struct Product8x8 {
  double* d;
  double a, b;
};
void multiply_f64(Block& block, void* const* lanes);

}  // namespace window_matmul::cuda::emulation
