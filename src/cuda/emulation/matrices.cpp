// src/cuda/emulation/matrices.cpp: the matrix instructions of a warp.
#include "cuda/emulation/matrices.hpp"

#include <bit>
#include <cmath>
#include <type_traits>
#include <vector>

#include "half.hpp"

namespace window_matmul::cuda::emulation {
namespace {

constexpr int kLanes = 32;

void count(Block& block, void* const* lanes) {
  if (!block.counts_traffic()) return;
  std::vector<std::uintptr_t> rows;
  for (int l = 0; l < kLanes; ++l) rows.push_back(static_cast<Matrices*>(lanes[l])->offset);
  block.count_matrices(rows);
}

template <bool Transposed>
void load(Block& block, void* const* lanes) {
  for (int l = 0; l < kLanes; ++l) {
    Matrices& mine = *static_cast<Matrices*>(lanes[l]);
    block.shared().load(block.first_lane() + l, mine.offset, mine.row, 16);
  }
  for (int l = 0; l < kLanes; ++l)
    for (int m = 0; m < 4; ++m) {
      std::uint32_t pair = 0;
      for (int e = 0; e < 2; ++e) {
        const int outer = l / 4, inner = 2 * (l % 4) + e;
        const auto* from = static_cast<Matrices*>(lanes[8 * m + (Transposed ? inner : outer)]);
        pair |= std::uint32_t{from->row[Transposed ? outer : inner]} << (16 * e);
      }
      static_cast<Matrices*>(lanes[l])->r[m] = pair;
    }
  count(block, lanes);
}

template <class E>
float element(std::uint32_t word, int e) {
  if constexpr (std::is_same_v<E, float>)
    return std::bit_cast<float>(word & 0xffffe000u);
  else
    return widen(E{static_cast<std::uint16_t>(word >> (16 * e))});
}

}  // namespace

void load_matrices(Block& block, void* const* lanes) { load<false>(block, lanes); }
void load_matrices_transposed(Block& block, void* const* lanes) { load<true>(block, lanes); }

void store_matrices(Block& block, void* const* lanes) {
  for (int l = 0; l < kLanes; ++l)
    for (int m = 0; m < 4; ++m)
      for (int e = 0; e < 2; ++e)
        static_cast<Matrices*>(lanes[8 * m + l / 4])->row[2 * (l % 4) + e] =
            static_cast<std::uint16_t>(static_cast<Matrices*>(lanes[l])->r[m] >> (16 * e));
  for (int l = 0; l < kLanes; ++l) {
    Matrices& mine = *static_cast<Matrices*>(lanes[l]);
    block.shared().store(block.first_lane() + l, mine.offset, mine.row, 16);
  }
  count(block, lanes);
}

template <class E>
void multiply(Block& block, void* const* lanes) {
  constexpr int P = std::is_same_v<E, float> ? 1 : 2, K = 8 * P;
  float a[16][K], b[K][8], d[16][8];
  for (int l = 0; l < kLanes; ++l) {
    const auto& mine = *static_cast<Product16x8*>(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; ++i) d[g + 8 * (i / 2)][2 * t + i % 2] = mine.d[i];
    for (int e = 0; e < P; ++e) {
      for (int r = 0; r < 4; ++r) a[g + 8 * (r % 2)][P * t + 4 * P * (r / 2) + e] = element<E>(mine.a[r], e);
      for (int r = 0; r < 2; ++r) b[P * t + 4 * P * r + e][g] = element<E>(mine.b[r], e);
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < K; ++k)
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
  for (int l = 0; l < kLanes; ++l)
    for (int i = 0; i < 4; ++i) static_cast<Product16x8*>(lanes[l])->d[i] = d[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
  block.count_products(16 * 8 * K);
}
template void multiply<float>(Block&, void* const*);
template void multiply<bf16>(Block&, void* const*);
template void multiply<f16>(Block&, void* const*);

void multiply_f64(Block& block, void* const* lanes) {
  for (int l = 0; l < kLanes; ++l)
    for (int e = 0; e < 2; ++e) {
      const int row = l / 4, column = 2 * (l % 4) + e;
      double& sum = static_cast<Product8x8*>(lanes[l])->d[e];
      for (int k = 0; k < 4; ++k)
        sum = std::fma(static_cast<Product8x8*>(lanes[4 * row + k])->a, static_cast<Product8x8*>(lanes[4 * column + k])->b, sum);
    }
  block.count_products(8 * 8 * 4);
}

}  // namespace window_matmul::cuda::emulation
