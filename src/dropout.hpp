// src/dropout.hpp: which random words a sequence of a problem draws.
#pragma once

#include "philox.hpp"
#include "window_matmul/problem.hpp"

namespace window_matmul {

inline DropoutDraws dropout_draws(const Problem& problem, const AttentionArgs& args, index_t s, const Sequence& of) {
  const DropoutPlaces& places = args.dropout_places;
  DropoutDraws draws{args.dropout_seed, places.sequences != nullptr ? places.sequences[s] : s};
  if (places.queries != nullptr) draws.queries = places.queries + of.batch * problem.band.rows + of.queries.begin;
  if (places.keys != nullptr) draws.keys = places.keys + of.keys.begin;
  return draws;
}

}  // namespace window_matmul
