// src/reference/attention_head.hpp: what one head of one sequence sees, and how strongly: the definitions that forward and backward share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "dropout.hpp"
#include "reference/elements.hpp"

namespace window_matmul::reference {

// (head, row, column) of a tensor (B, H, L, n), or of (B, H, L) with column 0, as a matrix of the rows from `first_row` on.
inline Elements rows_of(const TensorView& t, index_t batch, index_t head, index_t first_row) {
  if (t.data == nullptr) return {{}, t.dtype};
  const index_t offset = batch * t.stride[0] + head * t.stride[1] + first_row * t.stride[2];
  const index_t bytes = offset * static_cast<index_t>(size_of(t.dtype));
  return {{reinterpret_cast<std::uintptr_t>(t.data) + static_cast<std::uintptr_t>(bytes), t.stride[2], t.rank > 3 ? t.stride[3] : 0},
          t.dtype};
}

// The elements of a tensor (H,).
inline Elements column_of(const TensorView& t) { return {{reinterpret_cast<std::uintptr_t>(t.data), t.stride[0], 0}, t.dtype}; }

inline constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

struct SeenKey {
  index_t key;
  double score;
};

// A row of the softmax. Not exp(score - lse): beside a large score the logarithm of the sum may be lost.
struct Row {
  std::vector<SeenKey> seen;  // empty where nothing is seen
  double lse = kMinusInfinity;   // without the sink
  double highest = kMinusInfinity, sum = 1;  // of the scores, of exp(score - highest)
  double share = 1, sink_share = 0;  // of the keys and of the sink in the softmax

  double p_without_sink(double score) const { return std::exp(score - highest) / sum; }
  double p(double score) const { return share * p_without_sink(score); }
};

// Queries i and keys j count within the sequence.
class Head {
 public:
  Head(const Problem& problem, const AttentionArgs& args, index_t sequence_index, index_t head_index)
      : problem_(problem),
        args_(args),
        head_(head_index),
        sequence_(sequence_of(problem, sequence_index)),
        draws_(dropout_draws(problem, args, sequence_index, sequence_)),
        dilation_(problem.dilation_of(head_index)),
        q_(of_queries(args.q)),
        k_(of_keys(args.k)),
        bias_(of_queries(args.bias)) {}

  const Band& band() const { return sequence_.band; }

  Elements of_queries(const TensorView& t) const { return rows_of(t, sequence_.batch, head_, sequence_.queries.begin); }
  Elements of_keys(const TensorView& t) const {
    return rows_of(t, sequence_.batch, head_ / (problem_.heads / problem_.attention.kv_heads), sequence_.keys.begin);
  }

  // Offsets from the aligned key that are a multiple of the dilation, from -left to right times it.
  bool in_window(index_t i, index_t j) const {
    const index_t offset = j - i - band().shift, taps = offset / dilation_;
    return offset % dilation_ == 0 && -band().left <= taps && taps <= band().right;
  }
  index_t slot(index_t i, index_t j) const { return (j - i - band().shift) / dilation_ + band().left; }

  bool sees(index_t i, index_t j) const {
    if (args_.key_mask.data != nullptr && !is_set(args_.key_mask, j)) return false;
    if (in_window(i, j)) return bias(i, j) != kMinusInfinity;
    if (has_global_queries(problem_, sequence_) && is_global(i)) return true;
    return is_global(j) && (band().right > 0 || j <= i + band().shift);
  }

  // scale q.k, capped; without the bias. No product of three operands leaves a long double.
  double capped_score(index_t i, index_t j) const {
    const AttentionOptions& a = problem_.attention;
    long double s = 0;
    for (index_t n = 0; n < problem_.dim; ++n) s += static_cast<long double>(q_(i, n)) * k_(j, n);
    s *= a.scale;
    return static_cast<double>(a.softcap > 0 ? a.softcap * std::tanh(s / a.softcap) : s);
  }
  // The derivative of the capped score by the score before capping.
  double slope_of_cap(double capped) const {
    const double cap = problem_.attention.softcap;
    return cap > 0 ? 1 - capped / cap * (capped / cap) : 1;
  }
  // 0 outside the window, and where there is none.
  double bias(index_t i, index_t j) const {
    return problem_.attention.bias != AttentionOptions::Bias::none && in_window(i, j) ? bias_(i, slot(i, j)) : 0;
  }
  double sink() const { return problem_.attention.sinks ? column_of(args_.sinks)(head_, 0) : kMinusInfinity; }

  // What dropout multiplies p(i, j) with: 0 or 1 / (1 - p).
  double kept(index_t i, index_t j) const {
    const double p = problem_.attention.dropout_p;
    if (p == 0) return 1;
    return draws_.keeps(p, head_, i, j) ? 1 / (1 - p) : 0;
  }

  Row row(index_t i) const;

 private:
  bool is_set(const MaskView& mask, index_t j) const {
    return mask.data[sequence_.batch * mask.batch_stride + (sequence_.keys.begin + j) * mask.key_stride] != 0;
  }
  bool is_global(index_t j) const {
    return j < problem_.attention.global_tokens || (args_.global_mask.data != nullptr && is_set(args_.global_mask, j));
  }
  // Calls f(j) for keys in ascending order, all that query i may see among them.
  template <class F>
  void for_each_key(index_t i, F f) const;

  const Problem& problem_;
  const AttentionArgs& args_;
  index_t head_;
  Sequence sequence_;
  DropoutDraws draws_;
  index_t dilation_;
  Elements q_, k_, bias_;
};

template <class F>
void Head::for_each_key(index_t i, F f) const {
  if (problem_.attention.global_tokens > 0 || problem_.attention.global_mask) {
    for (index_t j = 0; j < band().cols; ++j) f(j);
  } else {
    const DilatedPart part = dilated_part(band(), dilation_, i % dilation_);
    const Range keys = part.band.keys(i / dilation_);
    for (index_t k = keys.begin; k < keys.end; ++k) f(part.first_col + k * dilation_);
  }
}

inline Row Head::row(index_t i) const {
  Row row;
  double highest = kMinusInfinity;
  for_each_key(i, [&](index_t j) {
    if (!sees(i, j)) return;
    const double score = capped_score(i, j) + bias(i, j);
    highest = score > highest || std::isnan(score) ? score : highest;
    row.seen.push_back({j, score});
  });
  if (highest == kMinusInfinity) return {};
  row.highest = highest, row.sum = 0;
  for (const SeenKey& s : row.seen) row.sum += std::exp(s.score - highest);
  row.lse = highest + std::log(row.sum);
  // Not 1 - share of the other: beside a share near 1 that of the other is lost.
  const double top = std::max(highest, sink()), keys = row.sum * std::exp(highest - top), own = sink() == top ? 1 : std::exp(sink() - top);
  row.share = keys / (keys + own), row.sink_share = own / (keys + own);
  return row;
}

}  // namespace window_matmul::reference
