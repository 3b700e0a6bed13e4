// src/cpu/kernels/attention/backward_queries.inl.hpp: a block of queries of the backward pass: its rows, log-sum-exps and shares.
#pragma once

#include "cpu/kernels/attention/softmax.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <class T>
struct BackwardScratch {
  // Transposed q and d_out [D][kQueries] and a vector; three tiles [kBackwardChunk][kQueries]; packed rows of k, v, q and d_out; sums of
  // d_q [kQueries][padded D]; six numbers a query; rows of d_out and out; sums of the held keys.
  T *queries, *d_out_transposed, *p, *d_s, *slopes, *k, *v, *q, *d_out, *d_q, *lse, *log_total, *share, *offset, *highest, *factor, *line;
  T* key_sums;

  BackwardScratch(void* memory, const AttentionBlock& block, index_t lanes) {
    T* next = static_cast<T*>(memory);
    const auto take = [&](index_t count) {
      T* taken = next;
      next += round_up(count, kMaxLanes);
      return taken;
    };
    const index_t dim = padded(block.dim), value_dim = padded(block.value_dim), tile = kBackwardChunk * lanes;
    queries = take(block.dim * lanes + kMaxLanes), d_out_transposed = take(block.value_dim * lanes + kMaxLanes);
    p = take(tile), d_s = take(tile), slopes = take(tile);
    k = take(kBackwardChunk * dim), v = take(kBackwardChunk * value_dim), q = take(lanes * dim), d_out = take(lanes * value_dim);
    d_q = take(lanes * dim), lse = take(lanes), log_total = take(lanes), share = take(lanes), offset = take(lanes);
    highest = take(lanes), factor = take(lanes), line = take(2 * value_dim);
    key_sums = next;
  }
};

template <Simd S, class E>
struct BackwardQueries {
  using T = typename S::Scalar;
  using Rows = KeyRows<T>;
  using WideOut = std::conditional_t<sizeof(E) == 2, float, E>;  // of out and its gradient, where they have the sums' type
  using Shape = BackwardShape<S>;
  static constexpr index_t kQueries = Shape::kQueries, kLanes = S::kLanes;

  const AttentionBlock& block;
  const BackwardScratch<T>& scratch;
  const AttentionHead& head;
  Prefetcher& ahead;
  Scores<S, E, Shape> scores{block, scratch.queries, scratch.p, block.options.softcap > 0 ? scratch.slopes : nullptr, ahead};
  Range rows{};
  Rows q{}, d_out{};
  T largest_query = 0;  // infinite where an element is not finite
  bool queries_finite = true, any_coarse = false, careful = false;  // careful: a row's log-sum-exp is NaN, natural, or in two parts

  // Of a block of queries; what concerns the queries alone is left out where the block is met again.
  void take(Range of, bool first_time) {
    rows = of;
    take_log_sum_exps();
    scores.take_queries(head, rows);
    block.options.out_is_f32 ? take_gradients<WideOut>() : take_gradients<E>();
    q = scores.gather.queries(head.q, rows, block.dim, scratch.q);
    largest_query = largest_of_rows(q, rows.size(), block.dim);
    queries_finite = largest_query <= std::numeric_limits<T>::max() && finite(scratch.d_out_transposed, block.value_dim);
    if (any_coarse && block.walk.query_list == nullptr) sum_again();
    for (index_t r = 0; r < rows.size(); ++r) block.options.out_is_f32 ? take_row<WideOut>(r, first_time) : take_row<E>(r, first_time);
  }

  template <class Out>
  void take_gradients() {
    const Gather<S, Out> gather{block.walk};
    gather.transposed(head.d_out, rows, block.value_dim, T{1}, scratch.d_out_transposed, kQueries);
    d_out = gather.queries(head.d_out, rows, block.value_dim, scratch.d_out);
  }

  // In units; infinite for rows that are none or another item's, whose P is zero.
  void take_log_sum_exps() {
    bool usual = !block.options.is_natural;
    scores.natural = careful = block.options.is_natural, any_coarse = false;
    for (index_t r = 0; r < kQueries; ++r) {
      const index_t position = r < rows.size() ? block.walk.query(rows.begin + r) : -1;
      const bool is_own = position >= 0 && !is_of_another_item(position);
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

  // A log-sum-exp is rounded to a part of its size. Where that is felt, as where a bias is low for all keys that a query sees, the sum is
  // taken again, and m and log2 l are subtracted one after the other. (Not for global queries: their keys belong to many items.)
  static bool is_coarse(T lse) {
    const T size = lse < 0 ? -lse : lse;
    return size > 256 && size < std::numeric_limits<T>::infinity();
  }

  void sum_again() {
    const OnlineSoftmax<S, Scores<S, E, Shape>> softmax{scores, scratch.highest, scratch.log_total, scratch.factor};
    softmax.start();
    for_each_chunk(scores, rows, [&](const Chunk& chunk) {
      const Rows k = scores.gather.keys(block.k, chunk, block.dim, true, scratch.k);
      scores.compute(chunk, k, is_wide(chunk, k, largest_of_rows(k, chunk.size(), block.dim)));
      softmax.exponentiate();
    });
    for (index_t r = 0; r < kQueries; ++r) {
      const bool again = is_coarse(scratch.lse[r]) && scratch.log_total[r] > 0;
      scratch.lse[r] = again ? scratch.highest[r] : scratch.lse[r];
      scratch.log_total[r] = again ? logarithm2(scratch.log_total[r]) * (scores.natural ? in_natural<T>(false) : 1) : T{0};
    }
    careful = true;
  }

  bool finite(const T* transposed, index_t columns) const {
    for (index_t n = 0; n < columns; ++n)
      if (!all_finite<S>(transposed + n * kQueries, rows.size())) return false;
    return true;
  }

  template <class Out>
  void take_row(index_t r, bool first_time) const {
    const index_t position = block.walk.query(rows.begin + r);
    const T lse = *Matrix2<const T>(head.lse).at(position, 0);
    if (first_time && head.d_bias.address != 0) clear_slots_without_key(rows.begin + r);
    if (lse == kMinusInfinity<T>) return;
    const T delta = product_with_out<Out>(position);
    const bool is_own = !is_of_another_item(position);
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

  bool is_of_another_item(index_t position) const { return block.skips_global_queries && block.global_tokens.contains(position); }

  bool all_of_another_item() const {
    for (index_t row = rows.begin; row < rows.end; ++row)
      if (!is_of_another_item(block.walk.query(row))) return false;
    return true;
  }

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

  static T largest_of_rows(const Rows& of, index_t count, index_t columns) {
    Largest<S> largest;
    for (index_t r = 0; r < count; ++r) largest.add(of.row(r), columns);
    return largest.value();
  }

  T largest_seen(const Chunk& chunk, const Rows& k) const {
    Largest<S> largest;
    for (index_t c = 0; c < chunk.size(); ++c)
      if (!block.options.has_key_mask || block.options.key_mask.contains(scores.gather.position(chunk, c)))
        largest.add(k.row(c), block.dim);
    return largest.value();
  }

  bool is_wide(const Chunk& chunk, const Rows& k, T key) const {
    const bool in_doubt = !(key <= std::numeric_limits<T>::max()) || needs_wide(block.options, block.dim, largest_query, key);
    return in_doubt && needs_wide(block.options, block.dim, largest_query, largest_seen(chunk, k));
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
