// src/reference/attention_backward.cpp: the gradients of fused attention in double, query by query over the keys it sees.
//
//   p = share of exp(score - lse), kept = 0 or 1 / (1 - dropout_p), d_p(j) = kept(j) d_out.v[j,:], delta = sum_j p(j) d_p(j)
//   d_score(j) = p(j) (d_p(j) - delta) + exp(score(j) - lse) d_lse        of the sink, which has no value: -p(sink) delta
//   d_v[j,:] += kept(j) p(j) d_out      d_bias[slot(j)] += d_score(j)     d_q += scale slope d_score(j) k[j,:], d_k[j,:] alike with q
#include "reference/attention.hpp"
#include "reference/attention_head.hpp"

namespace window_matmul::reference {
namespace {

// Sums of a gradient that many queries add to; empty where it is not wanted.
struct Sums {
  std::vector<double> values;
  index_t columns = 0;

  Sums(const TensorView& wanted, index_t rows, index_t columns_) : columns(columns_) {
    if (wanted.data != nullptr) values.resize(static_cast<std::size_t>(rows * columns));
  }
  void add(index_t row, index_t column, double x) {
    if (!values.empty()) values[static_cast<std::size_t>(row * columns + column)] += x;
  }
  void write_to(const Elements& out) const {
    for (std::size_t n = 0; n < values.size(); ++n)
      out.set(static_cast<index_t>(n) / columns, static_cast<index_t>(n) % columns, values[n]);
  }
};

struct SharedSums {  // of one key/value head: its keys; of all of them: what is there once a head
  Sums d_k, d_v;
  Sums& d_bias;
  Sums& d_sinks;
};

class Backward {
 public:
  Backward(const Problem& problem, const AttentionArgs& args, index_t sequence, index_t head_index)
      : problem_(problem),
        args_(args),
        head_index_(head_index),
        head_(problem, args, sequence, head_index),
        q_(head_.of_queries(args.q)),
        k_(head_.of_keys(args.k)),
        v_(head_.of_keys(args.v)),
        d_out_(head_.of_queries(args.d_out)) {}

  void run(SharedSums& sums) const {
    for (index_t i = 0; i < head_.band().rows; ++i) {
      clear_row(i);
      add_row(i, sums);
    }
  }

 private:
  // What one query alone adds to, zero until it does.
  void clear_row(index_t i) const {
    const auto clear = [&](const TensorView& t, index_t columns) {
      for (index_t n = 0; t.data != nullptr && n < columns; ++n) head_.of_queries(t).set(i, n, 0);
    };
    clear(args_.d_q, problem_.dim);
    if (problem_.attention.bias == AttentionOptions::Bias::full) clear(args_.d_bias, problem_.band.width());
  }

  // d_p of a key that dropout keeps.
  double product_with_value(index_t i, index_t j) const {
    double sum = 0;
    for (index_t n = 0; n < problem_.attention.value_dim; ++n) sum += d_out_(i, n) * v_(j, n);
    return sum;
  }

  void add_row(index_t i, SharedSums& sums) const {
    const Row row = head_.row(i);
    if (row.seen.empty()) return;
    std::vector<double> d_p;
    double delta = 0;
    for (const SeenKey& seen : row.seen) {
      const double kept = head_.kept(i, seen.key), p = row.p(seen.score);
      d_p.push_back(kept == 0 ? 0 : kept * product_with_value(i, seen.key));
      delta += p * d_p.back();
      for (index_t n = 0; kept != 0 && n < problem_.attention.value_dim; ++n) sums.d_v.add(seen.key, n, kept * p * d_out_(i, n));
    }
    const double d_lse = args_.d_lse.data == nullptr ? 0 : head_.of_queries(args_.d_lse)(i, 0);
    std::vector<double> d_q(static_cast<std::size_t>(problem_.dim));
    for (std::size_t n = 0; n < d_p.size(); ++n) {
      const SeenKey& seen = row.seen[n];
      const double d_score = row.p(seen.score) * (d_p[n] - delta) + row.p_without_sink(seen.score) * d_lse;
      add_score(i, seen.key, d_score, d_q, sums);
    }
    for (index_t n = 0; args_.d_q.data != nullptr && n < problem_.dim; ++n)
      head_.of_queries(args_.d_q).set(i, n, d_q[static_cast<std::size_t>(n)]);
    if (problem_.attention.sinks) sums.d_sinks.add(head_index_, 0, -row.sink_share * delta);
  }

  void add_score(index_t i, index_t j, double d_score, std::vector<double>& d_q, SharedSums& sums) const {
    if (head_.in_window(i, j)) {
      const index_t slot = head_.slot(i, j);
      if (problem_.attention.bias == AttentionOptions::Bias::per_slot) sums.d_bias.add(head_index_, slot, d_score);
      if (problem_.attention.bias == AttentionOptions::Bias::full && args_.d_bias.data != nullptr)
        head_.of_queries(args_.d_bias).set(i, slot, d_score);
    }
    const long double d_product =
        static_cast<long double>(problem_.attention.scale) * head_.slope_of_cap(head_.capped_score(i, j)) * d_score;
    for (index_t n = 0; n < problem_.dim; ++n) {
      d_q[static_cast<std::size_t>(n)] += static_cast<double>(d_product * k_(j, n));
      sums.d_k.add(j, n, static_cast<double>(d_product * q_(i, n)));
    }
  }

  const Problem& problem_;
  const AttentionArgs& args_;
  index_t head_index_;
  Head head_;
  Elements q_, k_, v_, d_out_;
};

}  // namespace

void attention_backward(const Problem& problem, const AttentionArgs& args) {
  const AttentionOptions& a = problem.attention;
  const bool per_slot = a.bias == AttentionOptions::Bias::per_slot;
  Sums d_bias(per_slot ? args.d_bias : TensorView{}, problem.heads, problem.band.width()), d_sinks(args.d_sinks, problem.heads, 1);
  const index_t group = problem.heads / a.kv_heads;
  for (index_t sequence = 0; sequence < num_sequences(problem); ++sequence)
    for (index_t kv_head = 0; kv_head < a.kv_heads; ++kv_head) {
      const index_t keys = sequence_of(problem, sequence).keys.size();
      SharedSums sums{{args.d_k, keys, problem.dim}, {args.d_v, keys, a.value_dim}, d_bias, d_sinks};
      for (index_t head = kv_head * group; head < (kv_head + 1) * group; ++head) Backward(problem, args, sequence, head).run(sums);
      const Head any(problem, args, sequence, kv_head * group);
      sums.d_k.write_to(any.of_keys(args.d_k));
      sums.d_v.write_to(any.of_keys(args.d_v));
    }
  for (index_t head = 0; per_slot && args.d_bias.data != nullptr && head < problem.heads; ++head)
    for (index_t slot = 0; slot < d_bias.columns; ++slot)
      rows_of(args.d_bias, 0, head, 0).set(0, slot, d_bias.values[static_cast<std::size_t>(head * d_bias.columns + slot)]);
  d_sinks.write_to(column_of(args.d_sinks));
}

}  // namespace window_matmul::reference
