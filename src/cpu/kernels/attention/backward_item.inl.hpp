// src/cpu/kernels/attention/backward_item.inl.hpp: all gradients in one walk over blocks of queries.
//
// All query heads of a key/value head are taken together: their sums of d_k and d_v are the same rows. Keys behind the queries are
// finished, together with the global queries' share of them.
#pragma once

#include "cpu/kernels/attention/backward.inl.hpp"
#include "cpu/kernels/attention/key_sums.inl.hpp"

namespace window_matmul::cpu {
namespace {

// Pass: a block of queries, its chunks of keys and their products.
template <Simd S, class E, class Pass>
struct AttentionBackwardItem {
  using T = typename S::Scalar;
  static constexpr index_t kQueries = Pass::kQueries;
  static_assert(kQueries >= kFewQueries);  // which are one block then

  const AttentionBlock& block;
  const typename Pass::Scratch scratch{block.scratch, block};
  KeySums<S, E> key_sums{block, scratch.key_sums};
  Prefetcher ahead{};
  AttentionBlock global_block = with_global_queries(block);

  static AttentionBlock with_global_queries(AttentionBlock of) {
    const index_t count = of.key_sums.num_global_queries, cols = of.walk.band.cols;
    of.walk.band = {count, cols, count + cols, count + cols, 0};
    of.walk.query_list = of.key_sums.global_queries;
    of.skips_global_queries = false;
    return of;
  }

  void run() {
    for (index_t row = block.rows.begin; row < block.rows.end; row += kQueries) {
      const Range rows{row, smaller(row + kQueries, block.rows.end)}, keys = block.walk.band.keys_any(rows);
      finish(smaller(keys.begin, block.key_sums.covered.end));
      if (!block.key_sums.final_at_once) key_sums.extend(keys.end);
      for (index_t h = 0; h < block.num_heads; ++h) add_queries(block.heads[h], rows);
    }
    finish(block.key_sums.covered.end);
  }

  Sums<T> d_k(index_t key) const { return {key_sums.d_k(key), key_sums.width}; }
  Sums<T> d_v(index_t key) const { return {key_sums.d_v(key), key_sums.width}; }

  void add_queries(const AttentionHead& head, Range rows) {
    Pass pass(block, scratch, head, ahead);
    pass.take(rows, true);
    if (all_of_another_item(block, rows)) return;
    queue(head, NextBlock(block.walk, rows), rows);
    fill_row(T{0}, scratch.d_q, 1, {0, kQueries * padded(block.dim)});
    const Sums<T> d_q{scratch.d_q, padded(block.dim)};
    pass.for_each_chunk([&](const Chunk& chunk) {
      if (block.key_sums.final_at_once && chunk.list == nullptr) finish(chunk.keys.begin), key_sums.extend(chunk.keys.end);
      if (chunk.list == nullptr)
        pass.differentiate(chunk, d_k(chunk.keys.begin), d_v(chunk.keys.begin), d_q);
      else
        add_global_keys(pass, chunk, d_q);
    });
    if (pass.wants_q) write_d_q(head, rows);
  }

  void queue(const AttentionHead& head, const NextBlock& next, Range rows) {
    ahead.clear();
    if (next.queries.empty()) return;
    next.queue_queries<E>(ahead, head.q, block.dim, false);
    next.queue_queries<E>(ahead, head.out, block.value_dim, false);
    next.queue_queries<E>(ahead, head.d_out, block.value_dim, false);
    next.queue_queries<E>(ahead, head.d_q, block.dim, true);
    if (&head == block.heads) queue_keys(next);
    ahead.spread(2 * block.walk.band.keys_any(rows).size() / Pass::kKeysOfTile);
  }

  void queue_keys(const NextBlock& next) {
    next.queue_keys<E>(ahead, block.k, next.keys, block.dim, false);
    next.queue_keys<E>(ahead, block.v, next.keys, block.value_dim, false);
    const index_t reached = block.walk.band.keys_any(next.queries).begin;  // the keys before it are going to be finished
    const Range behind{key_sums.begin, smaller(reached, key_sums.begin + kQueries)};
    next.queue_keys<E>(ahead, block.d_k, behind, block.dim, true);
    next.queue_keys<E>(ahead, block.d_v, behind, block.value_dim, true);
  }

  // Their rows of sums lie apart: a chunk of their own is summed up and added to them.
  void add_global_keys(Pass& pass, const Chunk& chunk, const Sums<T>& d_q) {
    const index_t width = key_sums.width;
    T* const all = static_cast<T*>(block.key_sums.global_sums);
    T* const sums = scratch.key_sums + block.key_sums.capacity * width;  // [kBackwardChunk][width] behind those of the held keys
    fill_row(T{0}, sums, 1, {0, chunk.size() * width});
    pass.differentiate(chunk, {sums, width}, {sums + padded(block.dim), width}, d_q);
    for (index_t c = 0; all != nullptr && c < chunk.size(); ++c) {
      T* const to = all + key_sums.index_of_global(chunk.list[c]) * width;
      for (index_t n = 0; n < width; n += S::kLanes) S::store(to + n, S::add(S::load(to + n), S::load(sums + c * width + n)));
    }
  }

  void write_d_q(const AttentionHead& head, Range rows) const {
    for (index_t r = 0; r < rows.size(); ++r) {
      const index_t position = block.walk.query(rows.begin + r);
      if (is_of_another_item(block, position)) continue;
      KeySums<S, E>::write_scaled(scratch.d_q + r * padded(block.dim), head.d_q, position, block.dim,
                                  static_cast<T>(block.options.d_sum_factor));
    }
  }

  void finish(index_t to) {
    key_sums.finish(to, [&](Range keys) {
      const Range own = keys.intersect(block.key_sums.own);
      if (own.empty()) return;
      for (index_t h = 0; h < block.num_heads; ++h)
        for (index_t row = 0; row < global_block.walk.band.rows; row += kQueries)
          add_global_queries(block.heads[h], {row, smaller(row + kQueries, global_block.walk.band.rows)}, own);
    });
  }

  void add_global_queries(const AttentionHead& head, Range rows, Range keys) {
    Pass pass(global_block, scratch, head, ahead);
    pass.take(rows, false);
    T* const sums = static_cast<T*>(head.d_q_sums);
    const Sums<T> d_q{sums == nullptr ? nullptr : sums + rows.begin * padded(block.dim), padded(block.dim)};
    for (index_t key = keys.begin; key < keys.end; key += Pass::kChunk)
      pass.differentiate(Chunk{{key, smaller(key + Pass::kChunk, keys.end)}}, d_k(key), d_v(key), d_q);
  }
};

template <Simd S, class E>
void attention_backward(const AttentionBlock& block) {
  AttentionBackwardItem<S, E, AttentionBackward<S, E>>{block}.run();
}

}  // namespace
}  // namespace window_matmul::cpu
