// src/cpu/kernels/attention/rows.inl.hpp: rows of queries, keys and values as the kernels read them, whatever their type and strides.
#pragma once

#include "cpu/attention/block.hpp"
#include "cpu/kernels/copy.inl.hpp"

namespace window_matmul::cpu {
namespace {

struct Chunk {  // keys of the walk, or of a list of positions
  Range keys;
  const index_t* list = nullptr;
  index_t size() const { return keys.size(); }
};

template <class T>
struct KeyRows {  // the rows of k or v of a chunk
  const T* data;
  index_t row_stride, col_stride;

  const T* row(index_t c) const { return data + c * row_stride; }
};

// Rows of queries or keys, whatever their type and strides.
template <Simd S, class E>
struct Gather {
  using T = typename S::Scalar;
  const AttentionGeometry& walk;

  index_t position(const Chunk& chunk, index_t c) const { return chunk.list != nullptr ? chunk.list[c] : walk.key(chunk.keys.begin + c); }

  // Whether whole vectors of the rows can be read where they lie.
  static bool is_whole(const Operand& from, const Chunk& chunk, index_t columns) {
    return chunk.list == nullptr && from.col_stride == 1 && columns % S::kLanes == 0;
  }
  KeyRows<E> stored(const Operand& from, const Chunk& chunk) const {
    return {Matrix2<const E>(from).at(position(chunk, 0), 0), from.row_stride * walk.step, from.col_stride};
  }

  // In place where that is possible; as_vectors: whole vectors of a row are going to be read.
  KeyRows<T> keys(const Operand& from, const Chunk& chunk, index_t columns, bool as_vectors, T* packed) const {
    if constexpr (std::is_same_v<E, T>)
      if (chunk.list == nullptr && (!as_vectors || is_whole(from, chunk, columns))) return stored(from, chunk);
    for (index_t c = 0; c < chunk.size(); ++c) row(from, position(chunk, c), columns, packed + c * padded(columns));
    return {packed, padded(columns), 1};
  }

  // Whether something else lies between the rows.
  bool are_apart(const Operand& from, index_t columns) const { return from.col_stride != 1 || from.row_stride * walk.step > columns; }

  KeyRows<T> queries(const Operand& from, Range rows, index_t columns, T* packed) const {
    if constexpr (std::is_same_v<E, T>)
      if (walk.query_list == nullptr && !are_apart(from, columns) && columns % S::kLanes == 0)
        return {Matrix2<const E>(from).at(walk.query(rows.begin), 0), from.row_stride * walk.step, 1};
    for (index_t r = 0; r < rows.size(); ++r) row(from, walk.query(rows.begin + r), columns, packed + r * padded(columns));
    return {packed, padded(columns), 1};
  }

  // One row, with zeros up to a whole vector of any instruction set.
  void row(const Operand& from, index_t position, index_t columns, T* to) const {
    row(Matrix2<const E>(from).at(position, 0), from.col_stride, columns, to);
  }
  void row(const E* from, index_t stride, index_t columns, T* to) const {
    read_row<S>(from, stride, columns, to);
    for (index_t n = columns; n < padded(columns); ++n) to[n] = 0;
  }

  // to[n * ld + r] = factor * from(query r, n), with zeros in the lanes of a vector behind the last query.
  void transposed(const Operand& from, Range rows, index_t columns, T factor, T* to, index_t ld) const {
    if (walk.query_list == nullptr) {
      Matrix2<const E> m(from);
      m.address = reinterpret_cast<std::uintptr_t>(m.at(walk.query(rows.begin), 0)), m.row_stride *= walk.step;
      pack_transposed<S>(m, {0, rows.size()}, {0, columns}, to, ld);
    } else {
      const Matrix2<const E> m(from);
      for (index_t n = 0; n < columns; ++n)
        for (index_t r = 0; r < ld; ++r) to[n * ld + r] = r < rows.size() ? widen(*m.at(walk.query(rows.begin + r), n)) : T{0};
    }
    for (index_t i = 0; factor != 1 && i < columns * ld; i += S::kLanes) S::store(to + i, S::mul(S::load(to + i), S::splat(factor)));
  }
};

// ---- bf16 as it is ------------------------------------------------------------------------------------------------------------------

using PairRows = KeyRows<bf16>;  // whose columns are neighbours

WINDOW_MATMUL_INLINE index_t whole_steps(index_t columns) { return round_up(columns, kPairStep); }

// `count` rows at position(i) of a tensor as rows of whole steps, and zeros up to `rows`.
template <class F>
PairRows copy_rows(const Operand& from, index_t count, index_t rows, index_t columns, bf16* to, F&& position) {
  const Matrix2<const bf16> m(from);
  const index_t width = whole_steps(columns);
  for (index_t i = 0; i < count; ++i) copy_row(m.at(position(i), 0), m.col_stride, columns, to + i * width, width);
  for (index_t i = count * width; i < rows * width; ++i) to[i] = {};
  return {to, width, 1};
}

// Rows of keys whose pairs lie together: in place, or copied with a zero behind an odd one.
template <Simd S>
PairRows keys_in_pairs(const Gather<S, bf16>& gather, const Operand& from, const Chunk& chunk, index_t columns, bf16* copied) {
  if (chunk.list == nullptr && from.col_stride == 1 && columns % 2 == 0) return gather.stored(from, chunk);
  return copy_rows(from, chunk.size(), chunk.size(), columns, copied, [&](index_t c) { return gather.position(chunk, c); });
}

// Pairs of queries: to[n / 2 * ld + r] = (x(query r, n), x(query r, n + 1)), with zeros in the lanes of a vector behind the last query.
template <Simd S>
void transpose_in_pairs(const Gather<S, bf16>& gather, const Operand& from, Range rows, index_t columns, bf16* copied, float* to,
                        index_t ld) {
  const AttentionGeometry& walk = gather.walk;
  const index_t stride = from.row_stride * walk.step;
  Operand pairs;
  if (walk.query_list == nullptr && from.col_stride == 1 && columns % 2 == 0 && stride % 2 == 0) {
    pairs = {reinterpret_cast<std::uintptr_t>(Matrix2<const bf16>(from).at(walk.query(rows.begin), 0)), stride / 2, 1};
  } else {
    const PairRows copies =
        copy_rows(from, rows.size(), rows.size(), columns, copied, [&](index_t r) { return walk.query(rows.begin + r); });
    pairs = {reinterpret_cast<std::uintptr_t>(copies.data), copies.row_stride / 2, 1};
  }
  pack_transposed<S>(Matrix2<const Pair>(pairs), {0, rows.size()}, {0, ceil_div(columns, 2)}, to, ld);
}

}  // namespace
}  // namespace window_matmul::cpu
