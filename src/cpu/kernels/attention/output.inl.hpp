// src/cpu/kernels/attention/output.inl.hpp: what becomes of the sums of a row: out = O / l, lse = (m + log2 l) ln 2.
#pragma once

#include "cpu/attention/block.hpp"
#include "cpu/kernels/copy.inl.hpp"
#include "cpu/kernels/exp.inl.hpp"

namespace window_matmul::cpu {
namespace {

// 1 / l; 0 for a query without keys. A sink is one more term of the denominator.
template <class T>
T inverse_total(const AttentionOptionsOfBlock& options, const AttentionHead& head, T highest, T total) {
  if (total == 0 || options.dropout_p >= 1) return 0;
  if (!options.has_sinks) return 1 / total;
  const T sink = static_cast<T>(head.sink) * kLog2E<T> - highest;
  return 1 / (total + (sizeof(T) == 4 ? __builtin_exp2f(static_cast<float>(sink)) : static_cast<T>(__builtin_exp2(sink))));
}

template <class T>
[[gnu::always_inline]] inline T log_sum_exp(T highest, T total) {
  const T logarithm = (highest + logarithm2(total)) * static_cast<T>(0.6931471805599453);
  return total == 0 ? kMinusInfinity<T> : total == total ? logarithm : total;
}

WINDOW_MATMUL_INLINE bool is_of_another_item(const AttentionBlock& block, index_t position) {
  return block.skips_global_queries && block.global_tokens.contains(position);
}
inline bool all_of_another_item(const AttentionBlock& block, Range rows) {
  if (!block.skips_global_queries) return false;
  for (index_t row = rows.begin; row < rows.end; ++row)
    if (!block.global_tokens.contains(block.walk.query(row))) return false;
  return true;
}

// Of a block of queries in so many lanes; `line` is room for them.
template <class T>
void write_lse(const AttentionBlock& block, Range rows, index_t lanes, const T* highest, const T* total, T* line) {
  const Matrix2<T> lse(block.heads[0].lse);
  for (index_t r = 0; r < lanes; ++r) line[r] = log_sum_exp(highest[r], total[r]);
  for (index_t r = 0; r < rows.size(); ++r) {
    const index_t position = block.walk.query(rows.begin + r);
    if (!is_of_another_item(block, position)) *lse.at(position, 0) = line[r];
  }
}

// to[n] = by * row[n], in whole vectors. False where an element is not finite.
template <Simd S, class To>
bool scale_row(const typename S::Scalar* row, index_t columns, typename S::Scalar by, To* to) {
  const auto factors = S::splat(by);
  auto probe = S::zero();
  for (index_t n = 0; n < columns; n += S::kLanes) {
    const auto scaled = S::mul(S::load(row + n), factors);
    probe = S::fma(scaled, S::zero(), probe);
    S::store(to + n, scaled);
  }
  return S::all_zero(probe);
}

// out(position, n) = by * row[n]; the row is scratch. False where an element is not finite.
template <Simd S, class E>
bool write_output(typename S::Scalar* row, index_t columns, typename S::Scalar by, const Operand& out, index_t position) {
  E* const to = Matrix2<E>(out).at(position, 0);
  if (out.col_stride == 1 && columns % S::kLanes == 0) return scale_row<S>(row, columns, by, to);
  const bool finite = scale_row<S>(row, columns, by, row);
  write_row<S>(row, columns, to, out.col_stride);
  return finite;
}

}  // namespace
}  // namespace window_matmul::cpu
