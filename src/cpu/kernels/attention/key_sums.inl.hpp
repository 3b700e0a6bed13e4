// src/cpu/kernels/attention/key_sums.inl.hpp: sums of d_k and d_v, rolling over the keys that later queries may still reach.
//
//   keys   0 ..... begin ......... end ......... cols      `begin` moves on as the queries do; rows that fall behind are finished: scaled,
//          finished | held sums    | not yet reached        narrowed and written, or handed to those who add up what several items share.
#pragma once

#include "cpu/attention/block.hpp"
#include "cpu/kernels/copy.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct KeySums {
  using T = typename S::Scalar;

  const AttentionBlock& block;
  T* const rows;  // [capacity][width]
  const index_t dim = padded(block.dim), value_dim = padded(block.value_dim), width = dim + value_dim;
  index_t begin = block.key_sums.covered.begin, end = begin, origin = begin;  // held keys, and the key of rows[0]

  T* d_k(index_t key) const { return rows + (key - origin) * width; }
  T* d_v(index_t key) const { return d_k(key) + dim; }

  // Room for keys up to `to`, zeros at first.
  void extend(index_t to) {
    if (to <= end) return;
    if (to - origin > block.key_sums.capacity) {
      __builtin_memmove(rows, d_k(begin), static_cast<std::size_t>((end - begin) * width) * sizeof(T));
      origin = begin;
    }
    __builtin_memset(d_k(end), 0, static_cast<std::size_t>((to - end) * width) * sizeof(T));
    end = to;
  }

  // Calls f(keys) for the held keys before `to`, some at a time, and then writes them; they are held no more.
  template <class F>
  void finish(index_t to, F&& f) {
    while (begin < to) {
      const Range keys{begin, smaller(begin + kBackwardChunk, to)};
      extend(keys.end);
      f(keys);
      for (index_t key = keys.begin; key < keys.end; ++key) write(key);
      begin = keys.end;
    }
  }

  void write(index_t key) const {
    const index_t position = block.walk.key(key);
    if (block.key_sums.global_sums != nullptr && block.global_tokens.contains(position)) hand_over_global(key, position);
    if (!block.key_sums.exclusive.contains(key)) return copy_shared(key);
    if (block.key_sums.global_sums != nullptr && block.global_tokens.contains(position)) return;
    if (block.d_k.address != 0) write_scaled(d_k(key), block.d_k, position, block.dim, static_cast<T>(block.options.d_sum_factor));
    if (block.d_v.address != 0) write_scaled(d_v(key), block.d_v, position, block.value_dim, T{1});
  }

  // Adds to the private sums of the global key, and leaves zeros.
  void hand_over_global(index_t key, index_t position) const {
    T* const to = static_cast<T*>(block.key_sums.global_sums) + index_of_global(position) * width;
    for (index_t n = 0; n < width; n += S::kLanes) {
      S::store(to + n, S::add(S::load(to + n), S::load(d_k(key) + n)));
      S::store(d_k(key) + n, S::zero());
    }
  }

  index_t index_of_global(index_t position) const {
    index_t low = 0, high = block.num_global_keys;
    while (high - low > 1) {
      const index_t middle = (low + high) / 2;
      (block.global_keys[middle] <= position ? low : high) = middle;
    }
    return low;
  }

  void copy_shared(index_t key) const {
    const Range all = block.key_sums.covered, exclusive = block.key_sums.exclusive;
    const index_t row = key < exclusive.begin ? key - all.begin : key - all.begin - exclusive.size();
    __builtin_memcpy(static_cast<T*>(block.key_sums.shared) + row * width, d_k(key), static_cast<std::size_t>(width) * sizeof(T));
  }

  static void write_scaled(T* from, const Operand& to, index_t position, index_t columns, T factor) {
    E* const row = Matrix2<E>(to).at(position, 0);
    const bool whole = to.col_stride == 1 && columns % S::kLanes == 0;
    const auto factors = S::splat(factor);
    for (index_t n = 0; n < columns; n += S::kLanes) {
      const auto scaled = S::mul(S::load(from + n), factors);
      whole ? S::store(row + n, scaled) : S::store(from + n, scaled);
    }
    if (!whole) write_row<S>(from, columns, row, to.col_stride);
  }
};

}  // namespace
}  // namespace window_matmul::cpu
