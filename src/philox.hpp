// src/philox.hpp: the counter-based generator behind dropout: the same pair of query and key has the same random word everywhere.
//
// Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
#pragma once

#include "window_matmul/band.hpp"

namespace window_matmul {

struct PhiloxWords {
  std::uint32_t word[4];
};

inline constexpr int kPhiloxRounds = 10;
inline constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;

struct PhiloxKey {  // of a round; the first is the seed
  std::uint32_t word[2];

  WINDOW_MATMUL_INLINE explicit PhiloxKey(std::uint64_t seed)
      : word{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)} {}
  WINDOW_MATMUL_INLINE void next() { word[0] += 0x9E3779B9u, word[1] += 0xBB67AE85u; }
};

WINDOW_MATMUL_INLINE PhiloxWords philox4x32_10(PhiloxWords counter, std::uint64_t seed) {
  PhiloxKey key(seed);
  for (int round = 0; round < kPhiloxRounds; ++round, key.next()) {
    const std::uint64_t product0 = std::uint64_t{kPhiloxMultiplier0} * counter.word[0];
    const std::uint64_t product1 = std::uint64_t{kPhiloxMultiplier1} * counter.word[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key.word[0], static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key.word[1], static_cast<std::uint32_t>(product0)}};
  }
  return counter;
}

// The words of keys 4 * (j / 4) .. + 3 for query i of head h of batch entry or packed sequence b; i and j count within the sequence.
WINDOW_MATMUL_INLINE PhiloxWords dropout_words(std::uint64_t seed, index_t b, index_t h, index_t i, index_t j) {
  return philox4x32_10(
      {{static_cast<std::uint32_t>(j >> 2), static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(h), static_cast<std::uint32_t>(b)}},
      seed);
}

// A key is kept iff its word is at least this: 2^32, which no word is, for p = 1.
WINDOW_MATMUL_INLINE std::uint64_t dropout_threshold(double p) { return static_cast<std::uint64_t>(p * 0x1p32); }

WINDOW_MATMUL_INLINE bool dropout_keeps(std::uint64_t seed, double p, index_t b, index_t h, index_t i, index_t j) {
  return dropout_words(seed, b, h, i, j).word[j & 3] >= dropout_threshold(p);
}

// The random words of one batch entry or packed sequence, whose queries and keys may stand elsewhere (DropoutPlaces).
struct DropoutDraws {
  std::uint64_t seed = 0;
  index_t sequence = 0;
  const std::int64_t *queries = nullptr, *keys = nullptr;

  WINDOW_MATMUL_INLINE index_t query(index_t i) const { return queries != nullptr ? queries[i] : i; }
  WINDOW_MATMUL_INLINE index_t key(index_t j) const { return keys != nullptr ? keys[j] : j; }
  WINDOW_MATMUL_INLINE bool keeps(double p, index_t h, index_t i, index_t j) const {
    return dropout_keeps(seed, p, sequence, h, query(i), key(j));
  }
};

}  // namespace window_matmul
