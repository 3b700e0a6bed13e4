// src/cpu/kernels/attention/backward_queries.inl.hpp: a block of queries of the backward pass: its rows, log-sum-exps and shares.
#pragma once

#include "cpu/kernels/attention/output.inl.hpp"
#include "cpu/kernels/attention/softmax.inl.hpp"

namespace window_matmul::cpu {
namespace {

// Three tiles [keys of a chunk][queries], six numbers a query, and rows of d_out and out.
template <class T>
struct BackwardNumbers {
  T *p, *d_s, *slopes, *lse, *log_total, *share, *offset, *highest, *factor, *line;

  template <class F>
  void take(index_t tile, index_t lanes, index_t value_dim, F&& taken) {
    p = taken(tile), d_s = taken(tile), slopes = taken(tile);
    lse = taken(lanes), log_total = taken(lanes), share = taken(lanes), offset = taken(lanes);
    highest = taken(lanes), factor = taken(lanes), line = taken(2 * padded(value_dim));
  }
};

// Takes numbers from scratch.
template <class T>
struct Taker {
  T* next;

  T* operator()(index_t count) {
    T* const taken = next;
    next += round_up(count, kMaxLanes);
    return taken;
  }
};

// AnyScores: of the block and a chunk of keys, in scratch.p.
template <Simd S, class E, class AnyScores>
struct BackwardQueries {
  using T = typename S::Scalar;
  using WideOut = std::conditional_t<sizeof(E) == 2, float, E>;  // of out and its gradient, where they have the sums' type
  static constexpr index_t kQueries = AnyScores::kQueries, kLanes = S::kLanes;

  const AttentionBlock& block;
  const BackwardNumbers<T>& scratch;
  const AttentionHead& head;
  AnyScores scores;
  Range rows{};
  bool any_coarse = false, careful = false;  // careful: a row's log-sum-exp is NaN, natural, or in two parts

  // In units; infinite for rows that are none or another item's, whose P is zero.
  void take_log_sum_exps(Range of) {
    rows = of;
    bool usual = !block.options.is_natural;
    scores.natural = careful = block.options.is_natural, any_coarse = false;
    for (index_t r = 0; r < kQueries; ++r) {
      const index_t position = r < rows.size() ? block.walk.query(rows.begin + r) : -1;
      const bool is_own = position >= 0 && !is_of_another_item(block, position);
      const T lse = is_own ? *Matrix2<const T>(head.lse).at(position, 0) : kMinusInfinity<T>;
      const bool nothing = lse == kMinusInfinity<T>;
      usual = usual && (nothing || (lse > -128 && lse < 128));
      scratch.lse[r] = nothing ? std::numeric_limits<T>::infinity() : lse, scratch.log_total[r] = 0;
      scratch.share[r] = 1, scratch.offset[r] = 0;
    }
    if (!usual) examine_log_sum_exps();
    const T unit = in_units<T>(scores.natural);
    for (index_t r = 0; r < kQueries; ++r) scratch.lse[r] *= unit;
  }

  void examine_log_sum_exps() {
    for (index_t r = 0; r < kQueries; ++r) {
      const T lse = scratch.lse[r], size = lse < 0 ? -lse : lse;
      scores.natural = scores.natural || (size >= kFar<T> / 2 && size <= std::numeric_limits<T>::max());
      careful = careful || lse != lse, any_coarse = any_coarse || is_coarse(lse * kLog2E<T>) || is_coarse(lse);
    }
    careful = careful || scores.natural;
  }

  static bool is_coarse(T lse) {
    const T size = lse < 0 ? -lse : lse;
    return size > 256 && size < std::numeric_limits<T>::infinity();
  }

  void take_row(index_t r, bool first_time) const {
    block.options.out_is_f32 ? take_row_of<WideOut>(r, first_time) : take_row_of<E>(r, first_time);
  }

  template <class Out>
  void take_row_of(index_t r, bool first_time) const {
    const index_t position = block.walk.query(rows.begin + r);
    const T lse = *Matrix2<const T>(head.lse).at(position, 0);
    if (first_time && head.d_bias.address != 0) clear_slots_without_key(rows.begin + r);
    if (lse == kMinusInfinity<T>) return;
    const T delta = product_with_out<Out>(position);
    const bool is_own = !is_of_another_item(block, position);
    T share = 1;
    if (block.options.has_sinks) {
      const T sink = sink_in_units<T>(head, scores.natural);
      const T above =
          is_own ? (sink - scratch.lse[r] - scratch.log_total[r]) * in_natural<T>(scores.natural) : static_cast<T>(head.sink) - lse;
      const T less = exponential(above > 0 ? -above : above), share_of_less = less / (1 + less), share_of_more = 1 / (1 + less);
      share = above > 0 ? share_of_less : share_of_more;
      // Not 1 - share: the sink's may be a part of it that is lost beside 1.
      if (first_time && head.d_sink_sum != nullptr)
        *static_cast<T*>(head.d_sink_sum) -= (above > 0 ? share_of_more : share_of_less) * delta;
    }
    if (!is_own) return;
    const T d_lse = head.d_lse.address != 0 ? *Matrix2<const T>(head.d_lse).at(position, 0) : T{0};
    scratch.share[r] = share, scratch.offset[r] = share * delta - d_lse;
  }

  static T exponential(T x) { return sizeof(T) == 4 ? __builtin_expf(static_cast<float>(x)) : static_cast<T>(__builtin_exp(x)); }

  template <class Out>
  T product_with_out(index_t position) const {
    const Matrix2<const Out> a(head.d_out), b(head.out);
    const Out *x = a.at(position, 0), *y = b.at(position, 0);
    if (a.col_stride == 1 && b.col_stride == 1 && block.value_dim % kLanes == 0) return dot(x, y, block.value_dim);
    const index_t width = padded(block.value_dim);
    const Gather<S, Out> gather{block.walk};
    gather.row(head.d_out, position, block.value_dim, scratch.line);
    gather.row(head.out, position, block.value_dim, scratch.line + width);
    return dot(scratch.line, scratch.line + width, width);
  }

  template <class A>
  static T dot(const A* x, const A* y, index_t count) {  // whole vectors
    auto sum = S::zero();
    for (index_t n = 0; n < count; n += kLanes) sum = S::fma(S::load(x + n), S::load(y + n), sum);
    return S::sum(sum);
  }

  // ---- bias -------------------------------------------------------------------------------------------------------------------------

  void clear_slots_without_key(index_t row) const { block.options.bias_is_f32 ? clear_slots<float>(row) : clear_slots<E>(row); }
  template <class B>
  void clear_slots(index_t row) const {
    const Matrix2<B> d_bias(head.d_bias);
    B* const to = d_bias.at(block.walk.query(row), 0);
    const Range slots = block.walk.band.slots(row);
    fill_row(B{}, to, d_bias.col_stride, {0, slots.begin});
    fill_row(B{}, to, d_bias.col_stride, {slots.end, block.walk.band.width()});
  }
};

}  // namespace
}  // namespace window_matmul::cpu
