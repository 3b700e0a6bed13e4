// src/cpu/kernels/prefetch.inl.hpp: rows that the next block is going to touch, asked for while this one computes.
#pragma once

#include "cpu/attention_block.hpp"
#include "cpu/kernels/copy.inl.hpp"

namespace window_matmul::cpu {
namespace {

// Rows of neighbouring positions whose elements are neighbours; for others it does nothing.
template <class E, int kForWriting>
void prefetch_rows(const Operand& from, index_t first, index_t step, index_t rows, index_t columns) {
  if (from.address == 0 || from.col_stride != 1) return;
  const auto bytes = static_cast<std::uintptr_t>(columns) * sizeof(E);
  const Matrix2<const E> m(from);
  for (index_t r = 0; r < rows; ++r) {
    const auto row = reinterpret_cast<std::uintptr_t>(m.at(first + r * step, 0));
    for (std::uintptr_t byte = 0; byte < bytes; byte += kCacheLine)
      __builtin_prefetch(reinterpret_cast<const void*>(row + byte), kForWriting, 2);
  }
}

constexpr int kToRead = 0, kToWrite = 1;

// The queries of the block after `rows`, and the keys that it sees and this one does not.
struct NextBlock {
  Range queries{}, keys{};

  NextBlock(const AttentionGeometry& walk, Range rows) {
    if (walk.query_list != nullptr || rows.end >= walk.band.rows) return;
    queries = {rows.end, smaller(rows.end + rows.size(), walk.band.rows)};
    keys = {walk.band.keys_any(rows).end, walk.band.keys_any(queries).end};
  }
};

template <class E, int kForWriting>
void prefetch_queries(const AttentionGeometry& walk, const NextBlock& next, const Operand& of, index_t columns) {
  prefetch_rows<E, kForWriting>(of, walk.query(next.queries.begin), walk.step, next.queries.size(), columns);
}

template <class E, int kForWriting>
void prefetch_keys(const AttentionGeometry& walk, const NextBlock& next, const Operand& of, index_t columns) {
  prefetch_rows<E, kForWriting>(of, walk.key(next.keys.begin), walk.step, next.keys.size(), columns);
}

}  // namespace
}  // namespace window_matmul::cpu
