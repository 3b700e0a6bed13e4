// src/cpu/kernels/copy.inl.hpp: rows and tiles between memory (any element type, any strides) and scratch (sums' type, dense).
#pragma once

#include <type_traits>

#include "cpu/block.hpp"
#include "cpu/simd/concept.hpp"

namespace window_matmul::cpu {
namespace {

template <class E>
struct Matrix2 {  // an Operand with its element type
  std::uintptr_t address;
  index_t row_stride, col_stride;

  explicit Matrix2(const Operand& o) : address(o.address), row_stride(o.row_stride), col_stride(o.col_stride) {}
  E* at(index_t r, index_t c) const {
    return reinterpret_cast<E*>(address + static_cast<std::uintptr_t>(r * row_stride + c * col_stride) * sizeof(E));
  }
};

// Fetches rows that are needed soon, where they are contiguous: tiles jump between rows, and the hardware does not follow them.
// Inlined: GCC takes a function that only prefetches for one without effect and drops its calls.
template <class M>
[[gnu::always_inline]] inline void prefetch_rows(const M& m, Range rows, Range columns) {
  if (m.col_stride != 1) return;
  const auto* row = m.at(rows.begin, columns.begin);
  constexpr index_t line = kCacheLine / static_cast<index_t>(sizeof(*row));
  for (index_t r = rows.begin; r < rows.end; ++r, row += m.row_stride)
    for (index_t c = 0; c < columns.size(); c += line) __builtin_prefetch(row + c, 0, 2);
}

template <Simd S, class E>
void read_row(const E* from, index_t stride, index_t count, typename S::Scalar* to) {
  index_t i = 0;
  if (stride == 1)
    for (; i + S::kLanes <= count; i += S::kLanes) S::store(to + i, S::load(from + i));
  for (; i < count; ++i) to[i] = widen(from[i * stride]);
}

// Reads whole vectors of `from`, which is scratch.
template <Simd S, class E>
void write_row(const typename S::Scalar* from, index_t count, E* to, index_t stride) {
  index_t i = 0;
  if (stride == 1) {
    for (; i + S::kLanes <= count; i += S::kLanes) S::store(to + i, S::load(from + i));
    if constexpr (std::is_same_v<E, typename S::Scalar>) return S::store_first(to + i, S::load(from + i), count - i);
  }
  for (; i < count; ++i) to[i * stride] = narrow<E>(from[i]);
}

// Copies a row, with zeros behind it.
inline void copy_row(const bf16* from, index_t stride, index_t count, bf16* to, index_t width) {
  if (stride == 1 && count > 0)
    __builtin_memcpy(to, from, static_cast<std::size_t>(count) * sizeof(bf16));
  else
    for (index_t n = 0; n < count; ++n) to[n] = from[n * stride];
  for (index_t n = count; n < width; ++n) to[n] = {};
}

template <class E>
void fill_row(E value, E* to, index_t stride, Range range) {
  for (index_t i = range.begin; i < range.end; ++i) to[i * stride] = value;
}

// A square of kLanes rows and columns: to[c * ld + r] = from(r, c). The rows of `from` are contiguous.
template <Simd S, class E>
void transpose_square(const E* from, index_t row_stride, typename S::Scalar* to, index_t ld) {
  typename S::Vec square[S::kLanes];
  for (int r = 0; r < S::kLanes; ++r) square[r] = S::load(from + r * row_stride);
  S::transpose(square);
  for (int c = 0; c < S::kLanes; ++c) S::store(to + c * ld, square[c]);
}

// to[c * ld + r] = m(rows.begin + r, columns.begin + c), with zeros after the last row up to a whole vector.
template <Simd S, class E>
void pack_transposed(const Matrix2<E>& m, Range rows, Range columns, typename S::Scalar* to, index_t ld) {
  constexpr index_t lanes = S::kLanes;
  const index_t count = rows.size(), cols = columns.size();
  const E* from = m.at(rows.begin, columns.begin);
  for (index_t c = 0; c < cols; ++c) S::store(to + c * ld + count, S::zero());
  if (m.col_stride != 1 || count < lanes || cols < lanes) {
    for (index_t c = 0; c < cols; ++c) read_row<S>(from + c * m.col_stride, m.row_stride, count, to + c * ld);
    return;
  }
  // The last square overlaps its neighbour where a length is no multiple of the lanes.
  for (index_t r = 0; r < count; r = r + lanes < count ? smaller(r + lanes, count - lanes) : count)
    for (index_t c = 0; c < cols; c = c + lanes < cols ? smaller(c + lanes, cols - lanes) : cols)
      transpose_square<S>(from + r * m.row_stride + c, m.row_stride, to + c * ld + r, ld);
}

// to[r * ld + c] = m(rows.begin + r, cols.begin + c), with zeros after the last column up to ld.
template <Simd S, class E>
void pack(const Matrix2<E>& m, Range rows, Range cols, typename S::Scalar* to, index_t ld) {
  const index_t count = cols.size();
  const E* from = m.at(rows.begin, cols.begin);
  if (m.col_stride != 1 && m.row_stride == 1) {  // read along memory
    for (index_t c = 0; c < count; ++c)
      for (index_t r = 0; r < rows.size(); ++r) to[r * ld + c] = widen(from[r + c * m.col_stride]);
  } else {
    for (index_t r = 0; r < rows.size(); ++r) read_row<S>(from + r * m.row_stride, m.col_stride, count, to + r * ld);
  }
  for (index_t r = 0; r < rows.size(); ++r)
    for (index_t c = count; c < ld; ++c) to[r * ld + c] = 0;
}

}  // namespace
}  // namespace window_matmul::cpu
