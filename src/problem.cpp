// src/problem.cpp: problems as text, as hash keys, the work they ask for, and the sequences they consist of.
#include "window_matmul/problem.hpp"

#include <cstdio>
#include <functional>

#include "task.hpp"

namespace window_matmul {
namespace {

// Over all heads of one batch entry or sequence.
index_t pairs_of_all_heads(const Problem& p, const Band& band) {
  index_t sum = 0;
  for (index_t head = 0; head < p.heads; ++head) {
    const index_t step = p.dilation_of(head);
    for (index_t part = 0; part < dilated_parts(band, step); ++part) sum += pairs(dilated_part(band, step, part).band);
  }
  return sum;
}

bool is_packed(const Problem& p) { return !p.attention.cu_q.empty(); }
// All entries have the band of the problem.
bool are_alike(const Problem& p) { return !is_packed(p) && p.attention.key_lengths.empty() && p.attention.shifts.empty(); }

std::string number(index_t n) { return std::to_string(n); }
std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", x + 0.0);  // + 0.0: equal numbers read alike, -0.0 among them
  return text;
}
std::string list(const std::vector<index_t>& numbers) {
  std::string text;
  for (index_t n : numbers) text.append(text.empty() ? "" : ",").append(number(n));
  return text;
}

std::string text_of(const AttentionOptions& a) {
  std::string text = " kv_heads=" + number(a.kv_heads) + " value_dim=" + number(a.value_dim) + " scale=" + number(a.scale);
  if (a.softcap != 0) text += " softcap=" + number(a.softcap);
  if (a.dropout_p != 0) text += " dropout_p=" + number(a.dropout_p) + (a.dropout_elsewhere ? " elsewhere" : "");
  if (a.bias != AttentionOptions::Bias::none) text += a.bias == AttentionOptions::Bias::full ? " bias=full" : " bias=per_slot";
  if (a.key_mask) text += " key_mask";
  if (a.sinks) text += " sinks";
  if (a.global_mask) text += " global_mask";
  if (a.global_tokens != 0) text += " global_tokens=" + number(a.global_tokens);
  if (a.global_queries) text += " global_queries";
  if (a.wide_out) text += " wide_out";
  if (a.split_lse) text += " split_lse";
  if (a.packed_there) text += " packed_there";
  if (a.aligns_last) text += " aligns_last";
  if (!a.cu_q.empty()) text += " cu_q=" + list(a.cu_q);
  if (!a.cu_k.empty()) text += " cu_k=" + list(a.cu_k);
  if (!a.key_lengths.empty()) text += " key_lengths=" + list(a.key_lengths);
  if (!a.shifts.empty()) text += " shifts=" + list(a.shifts);
  return text;
}

}  // namespace

const char* name_of(Op op) {
  constexpr const char* names[] = {"band_out",         "band_in",   "band_in_transposed", "softmax",
                                   "softmax_backward", "attention", "attention_backward"};
  return names[static_cast<int>(op)];
}

index_t Problem::multiply_adds() const {
  const index_t value_dim = attention.value_dim;
  if (!is_attention(op)) return batch * pairs_of_all_heads(*this, band) * dim;
  index_t pairs = 0;
  if (are_alike(*this)) pairs = batch * pairs_of_all_heads(*this, band);
  for (index_t s = 0; !are_alike(*this) && s < num_sequences(*this); ++s) pairs += pairs_of_all_heads(*this, sequence_of(*this, s).band);
  return pairs * (op == Op::attention ? dim + value_dim : 3 * dim + 2 * value_dim);
}

std::string to_string(const Problem& p) {
  std::string text = std::string(name_of(p.op)) + " " + name_of(p.dtype) + " batch=" + number(p.batch) + " heads=" + number(p.heads);
  text += " queries=" + number(p.band.rows) + " keys=" + number(p.band.cols) + " dim=" + number(p.dim);
  text += " window=(" + number(p.band.left) + "," + number(p.band.right) + ") shift=" + number(p.band.shift) + " dilation=";
  text += list(p.dilation);
  if (p.fill != 0) text += " fill=" + std::to_string(p.fill);
  if (p.precision == Precision::high) text += " precision=high";
  return is_attention(p.op) ? text + text_of(p.attention) : text;
}

Band without_overhang(const Band& band) {
  const auto cut = [](index_t side, index_t reach) { return side < kUnbounded ? smaller(side, reach) : reach; };
  Band same = band;
  same.left = cut(band.left, larger(band.rows + band.shift, 1));
  same.right = cut(band.right, larger(band.cols - band.shift, 1));  // and at least 1 where it was: 0 means that nothing later is ever seen
  return same;
}

index_t num_sequences(const Problem& p) { return is_packed(p) ? static_cast<index_t>(p.attention.cu_q.size()) - 1 : p.batch; }

Sequence sequence_of(const Problem& p, index_t index) {
  if (are_alike(p)) return {index, {0, p.band.rows}, {0, p.band.cols}, p.band};
  const AttentionOptions& a = p.attention;
  const auto s = static_cast<std::size_t>(index);
  if (is_packed(p)) {
    const Range queries{a.cu_q[s], a.cu_q[s + 1]}, keys{a.cu_k[s], a.cu_k[s + 1]};
    return {0, queries, keys, {queries.size(), keys.size(), p.band.left, p.band.right, keys.size() - queries.size()}};
  }
  Band band = p.band;
  if (!a.key_lengths.empty()) band.cols = a.key_lengths[s];
  if (!a.shifts.empty()) band.shift = a.shifts[s];
  if (a.bias == AttentionOptions::Bias::none) band = without_overhang(band);  // as if it were alone: then it is also computed like that
  return {index, {0, band.rows}, {0, band.cols}, band};
}

bool has_global_queries(const Problem& p, const Sequence& s) {
  return p.attention.global_queries && s.band.rows == s.band.cols && s.band.shift == 0;
}

}  // namespace window_matmul

std::size_t std::hash<window_matmul::Problem>::operator()(const window_matmul::Problem& problem) const noexcept {
  return std::hash<std::string>{}(window_matmul::to_string(problem));
}
