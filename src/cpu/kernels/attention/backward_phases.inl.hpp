// src/cpu/kernels/attention/backward_phases.inl.hpp: what becomes of a tile of scores in the backward pass, but for the products.
#pragma once

#include "cpu/kernels/attention/dropout.inl.hpp"
#include "cpu/kernels/attention/softmax.inl.hpp"

namespace window_matmul::cpu {
namespace {

// Two tiles beside that of the scores, [keys of a chunk][queries], and six numbers a query; rows of d_out and out.
template <class T>
struct BackwardNumbers {
  T *p, *d_s, *slopes, *lse, *log_total, *share, *offset, *highest, *factor, *line;

  template <class F>
  void take(index_t tile, index_t lanes, index_t value_dim, F&& taken) {
    p = taken(tile), d_s = taken(tile), slopes = taken(tile);
    lse = taken(lanes), log_total = taken(lanes), share = taken(lanes), offset = taken(lanes);
    highest = taken(lanes), factor = taken(lanes), line = taken(2 * value_dim);
  }
};

// AnyScores: of a block of queries and a chunk of keys, in scratch.p.
template <Simd S, class E, class AnyScores>
struct BackwardPhases {
  using T = typename S::Scalar;
  static constexpr index_t kQueries = AnyScores::kQueries, kLanes = S::kLanes;

  const AttentionBlock& block;
  const BackwardNumbers<T>& scratch;
  const AttentionHead& head;
  AnyScores scores;
  const bool wants_k = block.d_k.address != 0, wants_v = block.d_v.address != 0, wants_q = head.d_q.address != 0;
  const bool wants_bias = head.d_bias.address != 0 || head.d_bias_sums != nullptr;
  Range rows{};
  bool careful = false;  // a row's log-sum-exp is NaN, or in two parts

  // What concerns the queries alone is left out where the block is met again. walk(f): computes the scores of each chunk, and calls f.
  template <class F>
  void take_rows(bool first_time, F&& walk) {
    bool any_coarse = careful = false;
    for (index_t r = 0; r < kQueries; ++r) {
      take_row(r, first_time);
      careful = careful || scratch.lse[r] != scratch.lse[r], any_coarse = any_coarse || is_coarse(scratch.lse[r]);
    }
    if (any_coarse && block.walk.query_list == nullptr) sum_again(walk);
  }

  // A log-sum-exp is rounded to a part of its size. Where that is felt, as where a bias is low for all keys that a query sees, the sum is
  // taken again, and m and log2 l are subtracted one after the other. (Not for global queries: their keys belong to many items.)
  static bool is_coarse(T lse) {
    const T size = lse < 0 ? -lse : lse;
    return size > 256 && size < std::numeric_limits<T>::infinity();
  }

  template <class F>
  void sum_again(F&& walk) {
    const OnlineSoftmax<S, AnyScores> softmax{scores, scratch.highest, scratch.log_total, scratch.factor};
    softmax.start();
    walk([&] { softmax.exponentiate(); });
    for (index_t r = 0; r < kQueries; ++r) {
      const bool again = is_coarse(scratch.lse[r]) && scratch.log_total[r] > 0;
      scratch.lse[r] = again ? scratch.highest[r] : scratch.lse[r];
      scratch.log_total[r] = again ? logarithm2(scratch.log_total[r]) : T{0};
    }
    careful = true;
  }

  void take_row(index_t r, bool first_time) const {
    const index_t position = r < rows.size() ? block.walk.query(rows.begin + r) : -1;
    scratch.lse[r] = std::numeric_limits<T>::infinity(), scratch.log_total[r] = 0, scratch.share[r] = 1,
    scratch.offset[r] = 0;  // P is zero
    if (position < 0) return;
    const T lse = *Matrix2<const T>(head.lse).at(position, 0);
    if (first_time && head.d_bias.address != 0) clear_slots_without_key(rows.begin + r);
    if (lse == kMinusInfinity<T>) return;
    const T delta = product_with_out(position), sink = static_cast<T>(head.sink) - lse;
    const T odds = !block.options.has_sinks ? T{0}
                   : sizeof(T) == 4         ? __builtin_expf(static_cast<float>(sink))
                                            : static_cast<T>(__builtin_exp(sink));
    const T share = 1 / (1 + odds);
    if (first_time && head.d_sink_sum != nullptr) *static_cast<T*>(head.d_sink_sum) -= (1 - share) * delta;
    if (is_of_another_item(position)) return;
    const T d_lse = head.d_lse.address != 0 ? *Matrix2<const T>(head.d_lse).at(position, 0) : T{0};
    scratch.lse[r] = in_log2(lse), scratch.share[r] = share, scratch.offset[r] = share * delta - d_lse;
  }

  bool is_of_another_item(index_t position) const { return block.skips_global_queries && block.global_tokens.contains(position); }

  bool all_of_another_item() const {
    for (index_t row = rows.begin; row < rows.end; ++row)
      if (!is_of_another_item(block.walk.query(row))) return false;
    return true;
  }

  T product_with_out(index_t position) const {
    const Matrix2<const E> a(head.d_out), b(head.out);
    const E *x = a.at(position, 0), *y = b.at(position, 0);
    if (a.col_stride == 1 && b.col_stride == 1 && block.value_dim % kLanes == 0) return dot(x, y, block.value_dim);
    const index_t width = padded(block.value_dim);
    scores.gather.row(head.d_out, position, block.value_dim, scratch.line);
    scores.gather.row(head.out, position, block.value_dim, scratch.line + width);
    return dot(scratch.line, scratch.line + width, width);
  }

  template <class A>
  static T dot(const A* x, const A* y, index_t count) {  // whole vectors
    auto sum = S::zero();
    for (index_t n = 0; n < count; n += kLanes) sum = S::fma(S::load(x + n), S::load(y + n), sum);
    return S::sum(sum);
  }

  // ---- phases of a chunk ------------------------------------------------------------------------------------------------------------

  bool wants_scores() const { return wants_k || wants_q || wants_bias; }

  // Scores have become P, and d_s holds d_P where that is wanted.
  void subtract_and_share() const {
    if (wants_scores() || block.options.dropout_p > 0) block.options.dropout_p > 0 ? subtract_dropped() : subtract();
    if (wants_scores()) scores.clear_unseen(scratch.d_s);
    if (block.options.has_sinks && block.options.dropout_p == 0) leave_to_sink();
    if (wants_bias && scores.chunk.list == nullptr) BiasOfTile<S, E, AnyScores>{scores}.add_gradient(scratch.d_s);
  }

  void exponentiate() const {
    for (index_t v = 0; v < AnyScores::kColumns; ++v) careful ? exponentiate_column<true>(v) : exponentiate_column<false>(v);
    scores.clear_unseen(scratch.p);
  }

  template <bool Careful>
  void exponentiate_column(index_t v) const {
    const auto zero = S::zero(), lowest = S::splat(std::numeric_limits<T>::lowest());
    const auto lse = S::load(scratch.lse + v * kLanes), log_total = S::load(scratch.log_total + v * kLanes);
    T* p = scores.at(scores.seen[v].begin, v);
    T* const end = scores.at(scores.seen[v].end, v);
    for (; p < end; p += kQueries) {
      const auto score = S::load(p), difference = S::sub(score, lse);
      const auto power =
          exp2_nonpositive<S>(S::min(zero, Careful ? S::sub(difference, log_total) : difference));  // rounded, it may exceed 0
      S::store(p, Careful ? S::where_less(score, lowest, zero, power) : power);  // -inf minus NaN
    }
  }

  void subtract() const {
    for (index_t v = 0; v < AnyScores::kColumns; ++v) {
      const auto share = S::load(scratch.share + v * kLanes), offset = S::sub(S::zero(), S::load(scratch.offset + v * kLanes));
      const T* p = scores.at(scores.seen[v].begin, v);
      const T* const end = scores.at(scores.seen[v].end, v);
      T* d_s = scratch.d_s + (p - scratch.p);
      for (; p < end; p += kQueries, d_s += kQueries) {
        const auto weight = S::load(p), d_p = S::load(d_s);  // which may be NaN where the weight is 0
        S::store(d_s, S::where_less(S::zero(), weight, S::mul(weight, S::fma(share, d_p, offset)), weight));
      }
    }
  }

  void leave_to_sink() const {
    scores.for_each_seen([&](index_t c, index_t v) {
      const auto p = S::load(scores.at(c, v));  // the share may be NaN where P is 0
      S::store(scores.at(c, v), S::where_less(S::zero(), p, S::mul(p, S::load(scratch.share + v * kLanes)), p));
    });
  }

  void subtract_dropped() const {
    const auto zero = S::zero();
    Dropout<S, AnyScores>(scores).for_each_seen([&](index_t c, index_t v, typename S::Vec gains) {
      T* const d_s = scratch.d_s + c * kQueries + v * kLanes;
      const auto p = S::load(scores.at(c, v)), weights = S::mul(gains, S::load(scratch.share + v * kLanes));
      const auto d_p = S::where_less(zero, gains, S::mul(weights, S::load(d_s)), zero);  // any of these may be NaN where P is 0
      S::store(d_s, S::where_less(zero, p, S::mul(p, S::sub(d_p, S::load(scratch.offset + v * kLanes))), p));
      S::store(scores.at(c, v), S::where_less(zero, gains, S::where_less(zero, p, S::mul(p, weights), p), zero));
    });
  }

  void multiply_with_slopes() const {
    scores.for_each_seen([&](index_t c, index_t v) {
      const index_t at = c * kQueries + v * kLanes;
      const auto d_s = S::load(scratch.d_s + at);
      S::store(scratch.d_s + at,
               S::where_less(S::zero(), S::max(S::sub(S::zero(), d_s), d_s), S::mul(d_s, S::load(scratch.slopes + at)), d_s));
    });
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
