// src/cpu/attention/segments.hpp: the queries of a dilation part cut into segments, and which keys each of them reaches, owns and shares.
//
//   queries   | segment 0 | segment 1 | segment 2 |        reached   what some query of the segment sees
//   keys      [--------0-----]                             own       keys from the first one reached to that of the next segment: all keys,
//                     [--------1-------]                             also those that nobody reaches, are somebody's own
//                               [---------2------]         exclusive reached or owned by one segment alone: written by it. The others are
//             exclusive | sh | excl | sh | exclusive                 added up afterwards, in the order of the segments.
#pragma once

#include <vector>

#include "window_matmul/band.hpp"

namespace window_matmul::cpu {

struct Segment {
  Range rows, own, covered, exclusive;
};

// `count` segments of whole blocks of rows, or fewer. Nothing is exclusive where `all_shared`.
std::vector<Segment> segments_of(const Band& band, index_t count, index_t block_rows, bool all_shared);

}  // namespace window_matmul::cpu
