// src/reference/attention.cpp: fused attention in double, query by query over the keys it sees. Slow, and readable as mathematics.
#include "reference/attention.hpp"

#include "reference/attention_head.hpp"

namespace window_matmul::reference {
namespace {

// out[i,:] = sum_j p(i,j) v[j,:]
void attend(const Problem& problem, const AttentionArgs& args, const Head& head, index_t i) {
  const Elements v = head.of_keys(args.v), out = head.of_queries(args.out), lse = head.of_queries(args.lse);
  const Row row = head.row(i);
  std::vector<double> sum(static_cast<std::size_t>(problem.attention.value_dim));
  for (const SeenKey& seen : row.seen) {
    const double kept = head.kept(i, seen.key);
    if (kept == 0) continue;
    const double p = kept * row.p(seen.score);
    for (std::size_t n = 0; n < sum.size(); ++n) sum[n] += p * v(seen.key, static_cast<index_t>(n));
  }
  for (std::size_t n = 0; n < sum.size(); ++n) out.set(i, static_cast<index_t>(n), sum[n]);
  if (args.lse.data == nullptr) return;
  lse.set(i, 0, problem.attention.split_lse ? row.highest : row.lse);
  if (problem.attention.split_lse) lse.set(i, 1, std::log(row.sum));
}

}  // namespace

void attention(const Problem& problem, const AttentionArgs& args) {
  for (index_t sequence = 0; sequence < num_sequences(problem); ++sequence)
    for (index_t h = 0; h < problem.heads; ++h) {
      const Head head(problem, args, sequence, h);
      for (index_t i = 0; i < head.band().rows; ++i) attend(problem, args, head, i);
    }
}

}  // namespace window_matmul::reference
