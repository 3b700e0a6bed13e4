// src/cpu/kernels/prefetch.inl.hpp: rows that the next block is going to touch, asked for a few at a time while this one computes.
#pragma once

#include "cpu/attention/block.hpp"
#include "cpu/kernels/copy.inl.hpp"

namespace window_matmul::cpu {
namespace {

// A queue of rows. In one burst they would fill the buffers that wait for memory, and what this block reads would wait behind them.
struct Prefetcher {
  struct Rows {
    std::uintptr_t address, stride;
    index_t rows, lines;
    bool to_write;
  };
  Rows queue[8];  // as many operands as the backward pass has
  int count = 0, current = 0;
  index_t row = 0, line = 0, quota = 0;

  void clear() { count = current = 0, row = line = quota = 0; }

  // Rows of neighbouring positions whose elements are neighbours; others are left out.
  template <class E>
  void add(const Operand& from, index_t first, index_t step, index_t rows, index_t columns, bool to_write) {
    if (from.address == 0 || from.col_stride != 1 || rows <= 0 || columns <= 0) return;
    const Matrix2<const E> m(from);
    const auto bytes = columns * static_cast<index_t>(sizeof(E));
    queue[count++] = {reinterpret_cast<std::uintptr_t>(m.at(first, 0)), static_cast<std::uintptr_t>(from.row_stride * step) * sizeof(E),
                      rows, ceil_div(bytes, kCacheLine), to_write};
  }

  // What is queued is spread over so many calls of issue().
  void spread(index_t calls) {
    index_t lines = 0;
    for (int i = 0; i < count; ++i) lines += queue[i].rows * queue[i].lines;
    quota = ceil_div(lines, larger(calls, 1));
  }

  [[gnu::always_inline]] void issue() {
    for (index_t left = quota; left > 0 && current < count;) {
      const Rows& of = queue[current];
      const index_t lines = smaller(left, of.lines - line);
      fetch(of.address + static_cast<std::uintptr_t>(row) * of.stride + static_cast<std::uintptr_t>(line * kCacheLine), lines, of.to_write);
      left -= lines, line += lines;
      if (line < of.lines) continue;
      line = 0;
      if (++row < of.rows) continue;
      row = 0, ++current;
    }
  }

  [[gnu::always_inline]] static void fetch(std::uintptr_t at, index_t lines, bool to_write) {
    const std::uintptr_t end = at + static_cast<std::uintptr_t>(lines * kCacheLine);
    if (to_write)
      for (; at < end; at += kCacheLine) __builtin_prefetch(reinterpret_cast<const void*>(at), 1, 2);
    else
      for (; at < end; at += kCacheLine) __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
  }
};

// The queries of the block after `rows`, and the keys that it sees and this one does not.
struct NextBlock {
  const AttentionGeometry& walk;
  Range queries{}, keys{};

  NextBlock(const AttentionGeometry& of, Range rows) : walk(of) {
    if (walk.query_list != nullptr || rows.end >= walk.band.rows) return;
    queries = {rows.end, smaller(rows.end + rows.size(), walk.band.rows)};
    keys = {walk.band.keys_any(rows).end, walk.band.keys_any(queries).end};
  }
  template <class E>
  void queue_queries(Prefetcher& to, const Operand& of, index_t columns, bool to_write) const {
    to.add<E>(of, walk.query(queries.begin), walk.step, queries.size(), columns, to_write);
  }
  template <class E>
  void queue_keys(Prefetcher& to, const Operand& of, Range some, index_t columns, bool to_write) const {
    to.add<E>(of, walk.key(some.begin), walk.step, some.size(), columns, to_write);
  }
};

// Forward: what the block behind these rows is going to touch, spread over so many calls of issue().
template <class E>
void queue_next_block(const AttentionBlock& block, Range rows, index_t calls, Prefetcher* ahead) {
  const NextBlock next(block.walk, rows);
  ahead->clear();
  if (next.queries.empty()) return;
  next.queue_queries<E>(*ahead, block.heads[0].q, block.dim, false);
  next.queue_queries<E>(*ahead, block.heads[0].out, block.value_dim, true);
  next.queue_keys<E>(*ahead, block.k, next.keys, block.dim, false);
  next.queue_keys<E>(*ahead, block.v, next.keys, block.value_dim, false);
  ahead->spread(calls);
}

}  // namespace
}  // namespace window_matmul::cpu
