// src/problem.cpp: problems as text, as hash keys, and the work they ask for.
#include "window_matmul/problem.hpp"

#include <functional>

#include "task.hpp"

namespace window_matmul {

const char* name_of(Op op) {
  constexpr const char* names[] = {"band_out", "band_in", "band_in_transposed", "softmax", "softmax_backward"};
  return names[static_cast<int>(op)];
}

index_t Problem::multiply_adds() const {
  index_t pairs_of_all_heads = 0;
  for (index_t head = 0; head < heads; ++head) {
    const index_t step = dilation_of(head);
    for (index_t part = 0; part < dilated_parts(band, step); ++part) pairs_of_all_heads += pairs(dilated_part(band, step, part).band);
  }
  return batch * pairs_of_all_heads * dim;
}

std::string to_string(const Problem& p) {
  const auto number = [](index_t n) { return std::to_string(n); };
  std::string text = std::string(name_of(p.op)) + " " + name_of(p.dtype) + " batch=" + number(p.batch) + " heads=" + number(p.heads);
  text += " queries=" + number(p.band.rows) + " keys=" + number(p.band.cols) + " dim=" + number(p.dim);
  text += " window=(" + number(p.band.left) + "," + number(p.band.right) + ") shift=" + number(p.band.shift) + " dilation=";
  const char* comma = "";
  for (index_t step : p.dilation) text.append(comma).append(number(step)), comma = ",";
  if (p.fill != 0) text += " fill=" + std::to_string(p.fill);
  return text;
}

}  // namespace window_matmul

std::size_t std::hash<window_matmul::Problem>::operator()(const window_matmul::Problem& problem) const noexcept {
  return std::hash<std::string>{}(window_matmul::to_string(problem));
}
