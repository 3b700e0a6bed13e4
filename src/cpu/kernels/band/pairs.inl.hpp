// src/cpu/kernels/band/pairs.inl.hpp: matrices of bf16 as pairs: two steps of a product that lie in one lane.
#pragma once

#include "cpu/kernels/copy.inl.hpp"

namespace window_matmul::cpu {
namespace {

WINDOW_MATMUL_INLINE float pair_of(bf16 even, bf16 odd) { return std::bit_cast<float>(even.bits | std::uint32_t{odd.bits} << 16); }

// to[i] = (first[i * stride], second[i * stride]) for i < count; without a second, zeros.
template <HasDotPairs S>
void pair_row(const bf16* first, const bf16* second, index_t stride, index_t count, float* to) {
  index_t i = 0;
  if (stride == 1 && second != nullptr)
    for (; i + S::kLanes <= count; i += S::kLanes) S::store(to + i, S::load_pairs(first + i, second + i));
  for (; i < count; ++i) to[i] = pair_of(first[i * stride], second != nullptr ? second[i * stride] : bf16{});
}

// to[n / 2 * ld + r] = (m(rows.begin + r, n), m(rows.begin + r, n + 1)), counted from columns.begin, with zeros after the last row up to a
// whole vector.
template <HasDotPairs S>
void pack_transposed_in_pairs(const Matrix2<const bf16>& m, Range rows, Range columns, float* to, index_t ld) {
  const index_t pairs = ceil_div(columns.size(), 2);
  if (m.col_stride == 1 && m.row_stride % 2 == 0 && columns.size() % 2 == 0) {
    const Operand in_pairs{reinterpret_cast<std::uintptr_t>(m.at(rows.begin, columns.begin)), m.row_stride / 2, 1};
    return pack_transposed<S>(Matrix2<const Pair>(in_pairs), {0, rows.size()}, {0, pairs}, to, ld);
  }
  for (index_t p = 0; p < pairs; ++p, to += ld) {
    const index_t n = columns.begin + 2 * p;
    S::store(to + rows.size(), S::zero());
    pair_row<S>(m.at(rows.begin, n), n + 1 < columns.end ? m.at(rows.begin, n + 1) : nullptr, m.row_stride, rows.size(), to);
  }
}

// to[r / 2 * ld + c] = (m(r, columns.begin + c), m(r + 1, columns.begin + c)), counted from rows.begin, with zeros after the last column up
// to ld, and for a row behind the last.
template <HasDotPairs S>
void pack_in_pairs(const Matrix2<const bf16>& m, Range rows, Range columns, float* to, index_t ld) {
  for (index_t r = rows.begin; r < rows.end; r += 2, to += ld) {
    pair_row<S>(m.at(r, columns.begin), r + 1 < rows.end ? m.at(r + 1, columns.begin) : nullptr, m.col_stride, columns.size(), to);
    fill_row(0.0f, to, 1, {columns.size(), ld});
  }
}

}  // namespace
}  // namespace window_matmul::cpu
