// src/cpu/kernels/attention/dropout.inl.hpp: which weights of a tile dropout keeps: the same in forward and backward.
//
// The words of four neighbouring keys come from one draw a query (philox.hpp), whose 32-bit words are computed in lanes of 64 bits: that is
// how products come out. One chain of ten rounds waits for itself most of the time, so several run side by side.
#pragma once

#include "cpu/kernels/attention/scores.inl.hpp"
#include "philox.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class AnyScores>
struct Dropout {
  using T = typename S::Scalar;
  using Words = typename S::Words;
  static constexpr index_t kLanes = S::kLanes, kQueries = AnyScores::kQueries;
  static constexpr int kChains = 3;  // four words each, and the products, in 16 registers
  static constexpr index_t kDrawn = kChains * S::kWordLanes;  // queries that are drawn for together
  static constexpr index_t kRoom = round_up(kQueries, kDrawn);

  const AnyScores& scores;
  const AttentionBlock& block = scores.block;
  const double p = block.options.dropout_p;
  // What a kept weight is multiplied with. All of them are zero for p = 1, whose threshold is no word.
  const T gain = static_cast<T>(p < 1 ? 1 / (1 - p) : 0);
  const std::uint32_t threshold = static_cast<std::uint32_t>(dropout_threshold(p));
  Words keys[kPhiloxRounds][2];
  std::uint64_t queries[kRoom], words[4][kRoom];
  T gains[4][kQueries];

  explicit Dropout(const AnyScores& of) : scores(of) {
    PhiloxKey key(block.draws.seed);
    for (int round = 0; round < kPhiloxRounds; ++round, key.next())
      keys[round][0] = S::splat_words(key.word[0]), keys[round][1] = S::splat_words(key.word[1]);
    for (index_t r = 0; r < kRoom; ++r)
      queries[r] = r < scores.rows.size() ? static_cast<std::uint64_t>(block.draws.query(block.walk.query(scores.rows.begin + r))) : 0;
  }

  // Calls f(key of the chunk, vector of queries, gains) for all that were computed. The gain of a dropped weight is 0.
  template <class F>
  [[gnu::always_inline]] void for_each_seen(F&& f) {
    const index_t size = scores.chunk.size();
    for (index_t c = 0; c < size;) {
      Range some{c, c + 1};  // keys that share a draw
      const index_t group = group_of(c);
      while (some.end < size && group_of(some.end) == group) ++some.end;
      const Range vectors = vectors_that_see(some);
      draw(group, {vectors.begin * kLanes, vectors.end * kLanes});
      for (; c < some.end; ++c)
        for (index_t v = vectors.begin; v < vectors.end; ++v)
          if (scores.seen[v].contains(c)) f(c, v, S::load(gains[place_of(c) & 3] + v * kLanes));
    }
  }

 private:
  index_t place_of(index_t c) const { return block.draws.key(scores.gather.position(scores.chunk, c)); }
  index_t group_of(index_t c) const { return place_of(c) >> 2; }

  Range vectors_that_see(Range some) const {
    Range vectors{0, AnyScores::kColumns};
    const auto sees = [&](index_t v) { return !scores.seen[v].intersect(some).empty(); };
    while (!vectors.empty() && !sees(vectors.begin)) ++vectors.begin;
    while (!vectors.empty() && !sees(vectors.end - 1)) --vectors.end;
    return vectors;
  }

  void draw(index_t group, Range lanes) {
    for (index_t lane = lanes.begin / kDrawn * kDrawn; lane < lanes.end; lane += kDrawn) draw(group, lane);
    for (index_t n = 0; n < 4; ++n)
      for (index_t lane = lanes.begin; lane < lanes.end; ++lane)
        gains[n][lane] = static_cast<std::uint32_t>(words[n][lane]) >= threshold ? gain : T{0};
  }

  // philox4x32_10 for kDrawn queries.
  void draw(index_t group, index_t lane) {
    const auto multiplier0 = S::splat_words(kPhiloxMultiplier0), multiplier1 = S::splat_words(kPhiloxMultiplier1);
    Words w[kChains][4];
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      w[i][0] = S::splat_words(static_cast<std::uint64_t>(group)), w[i][1] = S::load_words(queries + lane + i * S::kWordLanes);
      w[i][2] = S::splat_words(static_cast<std::uint64_t>(scores.head->index));
      w[i][3] = S::splat_words(static_cast<std::uint64_t>(block.draws.sequence));
    }
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round)
#pragma GCC unroll 4
      for (int i = 0; i < kChains; ++i) {
        const auto product0 = S::multiply_words(multiplier0, w[i][0]), product1 = S::multiply_words(multiplier1, w[i][2]);
        w[i][0] = S::exclusive_or(S::exclusive_or(S::high_words(product1), keys[round][0]), w[i][1]), w[i][1] = product1;
        w[i][2] = S::exclusive_or(S::exclusive_or(S::high_words(product0), keys[round][1]), w[i][3]), w[i][3] = product0;
      }
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i)
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) S::store_words(words[n] + lane + i * S::kWordLanes, w[i][n]);
  }
};

}  // namespace
}  // namespace window_matmul::cpu
