// src/cpu/kernels/attention/output.inl.hpp: what becomes of the sums of a row: out = O / l, lse = (m + log2 l) ln 2 (m in units of log 2).
#pragma once

#include "cpu/attention/block.hpp"
#include "cpu/kernels/attention/wide.inl.hpp"
#include "cpu/kernels/copy.inl.hpp"
#include "cpu/kernels/exp.inl.hpp"

namespace window_matmul::cpu {
namespace {

// 1 / l; 0 for a query without keys. A sink is one more term of the denominator.
template <class T>
T inverse_total(const AttentionOptionsOfBlock& options, const AttentionHead& head, T highest, T total, bool natural) {
  if (total == 0 || options.dropout_p >= 1) return 0;
  if (!options.has_sinks) return 1 / total;
  const T difference = sink_in_units<T>(head, natural) - highest, sink = natural ? difference * kLog2E<T> : difference;
  return 1 / (total + (sizeof(T) == 4 ? __builtin_exp2f(static_cast<float>(sink)) : static_cast<T>(__builtin_exp2(sink))));
}

template <class T>
[[gnu::always_inline]] inline T log_sum_exp(T highest, T total, bool natural) {
  constexpr T ln2 = static_cast<T>(0.6931471805599453);
  const T logarithm = natural ? highest + logarithm2(total) * ln2 : (highest + logarithm2(total)) * ln2;
  return total == 0 ? kMinusInfinity<T> : total == total ? logarithm : total;
}

// The same in two, at lse[0] and lse[stride]; maxima are natural.
template <class T>
void write_split(T highest, T total, T* lse, index_t stride) {
  lse[0] = total == 0 ? kMinusInfinity<T> : highest;
  lse[stride] = total == 0 ? T{0} : log_sum_exp(T{0}, total, true);
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
bool write_output_as(typename S::Scalar* row, index_t columns, typename S::Scalar by, const Operand& out, index_t position) {
  E* const to = Matrix2<E>(out).at(position, 0);
  if (out.col_stride == 1 && columns % S::kLanes == 0) return scale_row<S>(row, columns, by, to);
  const bool finite = scale_row<S>(row, columns, by, row);
  write_row<S>(row, columns, to, out.col_stride);
  return finite;
}

template <Simd S, class E>
bool write_output(const AttentionOptionsOfBlock& options, typename S::Scalar* row, index_t columns, typename S::Scalar by,
                  const Operand& out, index_t position) {
  if constexpr (sizeof(E) == 2)
    if (options.out_is_f32) return write_output_as<S, float>(row, columns, by, out, position);
  return write_output_as<S, E>(row, columns, by, out, position);
}

}  // namespace
}  // namespace window_matmul::cpu
