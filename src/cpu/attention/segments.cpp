// src/cpu/attention/segments.cpp: ranges of rows and keys, by the band alone.
#include "cpu/attention/segments.hpp"

namespace window_matmul::cpu {

std::vector<Segment> segments_of(const Band& band, index_t count, index_t block_rows, bool all_shared) {
  const index_t rows = round_up(ceil_div(band.rows, larger(count, 1)), block_rows);
  std::vector<Segment> segments;
  for (index_t row = 0; row < band.rows; row += rows) {
    const Range own_rows{row, smaller(row + rows, band.rows)};
    const bool first = row == 0, last = own_rows.end == band.rows;
    const Range own{first ? 0 : clamp(band.first(row), 0, band.cols), last ? band.cols : clamp(band.first(own_rows.end), 0, band.cols)};
    const index_t reached = band.keys_any(own_rows).empty() ? own.begin : band.keys_any(own_rows).end;
    segments.push_back({own_rows, own, {own.begin, larger(own.end, reached)}, {}});
  }
  index_t before = 0;  // the end of what earlier segments cover
  for (std::size_t i = 0; i < segments.size(); ++i) {
    Segment& s = segments[i];
    const bool last = i + 1 == segments.size();
    s.exclusive = {larger(s.covered.begin, before), last ? s.covered.end : smaller(s.covered.end, segments[i + 1].covered.begin)};
    if (all_shared || s.exclusive.empty()) s.exclusive = {s.covered.end, s.covered.end};
    before = larger(before, s.covered.end);
  }
  return segments;
}

}  // namespace window_matmul::cpu
