// src/cpu/kernels/attention_dropout.inl.hpp: which weights of a tile dropout keeps: the same in forward and backward.
#pragma once

#include "cpu/kernels/attention_scores.inl.hpp"
#include "philox.hpp"

namespace window_matmul::cpu {
namespace {

// Calls f(key of the chunk, lane, kept) for every pair of the tile.
template <class AnyScores, class F>
[[gnu::always_inline]] inline void for_each_draw(const AnyScores& scores, F&& f) {
  const AttentionBlock& block = scores.block;
  const std::uint64_t threshold = dropout_threshold(block.options.dropout_p);
  for (index_t lane = 0; lane < scores.rows.size(); ++lane) {
    const index_t i = block.walk.query(scores.rows.begin + lane);
    PhiloxWords words{};
    index_t group = -1;  // of four keys that share a draw
    for (index_t c = 0; c < scores.chunk.size(); ++c) {
      const index_t j = scores.gather.position(scores.chunk, c);
      if (j >> 2 != group) group = j >> 2, words = dropout_words(block.options.dropout_seed, block.sequence, scores.head->index, i, j);
      f(c, lane, words.word[j & 3] >= threshold);
    }
  }
}

// What a kept weight is multiplied with.
template <class T>
T dropout_gain(const AttentionBlock& block) {
  return static_cast<T>(block.options.dropout_p < 1 ? 1 / (1 - block.options.dropout_p) : 0);
}

}  // namespace
}  // namespace window_matmul::cpu
