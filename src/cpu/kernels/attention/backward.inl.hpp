// src/cpu/kernels/attention/backward.inl.hpp: the gradients of a block of queries, chunk by chunk of keys. P is computed again.
//
//   P = 2^(scores - lse)      d_P = d_out vT      d_S = P (w d_P - (w delta - d_lse)),  delta = sum of d_out * out
//   d_v += (w P)T d_out       d_k += d_ST q       d_q += d_S k       (d_S times the softcap's slope for d_k and d_q)
//
// w = 1 / (1 + exp(sink - lse)) is the share of the softmax that the sink leaves to the keys, 1 without sinks. Dropout multiplies d_P, and
// P in d_v.
#pragma once

#include "cpu/kernels/attention/dropout.inl.hpp"
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
struct AttentionBackward {
  using T = typename S::Scalar;
  using Rows = KeyRows<T>;
  using Shape = BackwardShape<S>;
  static constexpr index_t kQueries = Shape::kQueries, kLanes = S::kLanes;

  const AttentionBlock& block;
  const BackwardScratch<T>& scratch;
  const AttentionHead& head;
  Prefetcher& ahead;
  Scores<S, E, Shape> scores{block, scratch.queries, scratch.p, block.options.softcap > 0 ? scratch.slopes : nullptr, ahead};
  const bool wants_k = block.d_k.address != 0, wants_v = block.d_v.address != 0, wants_q = head.d_q.address != 0;
  const bool wants_bias = head.d_bias.address != 0 || head.d_bias_sums != nullptr;
  Range rows{};
  Rows q{}, d_out{};
  bool queries_finite = true, careful = false;  // careful: a row's log-sum-exp is NaN, or in two parts

  // Of a block of queries; what concerns the queries alone is left out where the block is met again.
  void take(Range of, bool first_time) {
    rows = of;
    scores.take_queries(head, rows);
    scores.gather.transposed(head.d_out, rows, block.value_dim, T{1}, scratch.d_out_transposed, kQueries);
    queries_finite = finite(scratch.queries, block.dim) && finite(scratch.d_out_transposed, block.value_dim);
    q = scores.gather.queries(head.q, rows, block.dim, scratch.q);
    d_out = scores.gather.queries(head.d_out, rows, block.value_dim, scratch.d_out);
    bool any_coarse = careful = false;
    for (index_t r = 0; r < kQueries; ++r) {
      take_row(r, first_time);
      careful = careful || scratch.lse[r] != scratch.lse[r], any_coarse = any_coarse || is_coarse(scratch.lse[r]);
    }
    if (any_coarse && block.walk.query_list == nullptr) sum_again();
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
      scores.compute(chunk, scores.gather.keys(block.k, chunk, block.dim, false, scratch.k));
      softmax.exponentiate();
    });
    for (index_t r = 0; r < kQueries; ++r) {
      const bool again = is_coarse(scratch.lse[r]) && scratch.log_total[r] > 0;
      scratch.lse[r] = again ? scratch.highest[r] : scratch.lse[r];
      scratch.log_total[r] = again ? logarithm2(scratch.log_total[r]) : T{0};
    }
    careful = true;
  }

  bool finite(const T* transposed, index_t columns) const {
    for (index_t n = 0; n < columns; ++n)
      if (!all_finite<S>(transposed + n * kQueries, rows.size())) return false;
    return true;
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

  // ---- a chunk of keys --------------------------------------------------------------------------------------------------------------

  // Adds to d_k and d_v of these keys, of the walk or of a list of global ones, and to the sums of d_q.
  void differentiate(const Chunk& chunk, const Sums<T>& d_k, const Sums<T>& d_v, const Sums<T>& d_q) {
    const Rows k = scores.gather.keys(block.k, chunk, block.dim, true, scratch.k);
    scores.compute(chunk, k);
    exponentiate();
    if (wants_k || wants_q || wants_bias) {
      scores.multiply(scores.gather.keys(block.v, chunk, block.value_dim, false, scratch.v), scratch.d_out_transposed, block.value_dim,
                      scratch.d_s);
      block.options.dropout_p > 0 ? subtract_dropped() : subtract();
      scores.clear_unseen(scratch.d_s);
    } else if (block.options.dropout_p > 0) {
      subtract_dropped();
    }
    if (block.options.has_sinks && block.options.dropout_p == 0) leave_to_sink();
    if (wants_v) add_to_keys(scratch.p, d_out, block.value_dim, d_v);
    if (wants_bias && chunk.list == nullptr) BiasOfTile<S, E, Scores<S, E, Shape>>{scores}.add_gradient(scratch.d_s);
    if (block.options.softcap > 0) multiply_with_slopes();
    if (wants_k) add_to_keys(scratch.d_s, q, block.dim, d_k);
    if (wants_q) add_to_queries(k, d_q);
  }

  void exponentiate() const {
    for (index_t v = 0; v < Shape::kColumns; ++v) careful ? exponentiate_column<true>(v) : exponentiate_column<false>(v);
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
    for (index_t v = 0; v < Shape::kColumns; ++v) {
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
    Dropout<S, Scores<S, E, Shape>>(scores).for_each_seen([&](index_t c, index_t v, typename S::Vec gains) {
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

  // ---- sums -------------------------------------------------------------------------------------------------------------------------

  // to(key, n) += sum over queries of weights(key, query) x(query, n)
  void add_to_keys(const T* weights, const Rows& x, index_t columns, const Sums<T>& to) const {
    const index_t count = scores.chunk.size();
    for (index_t c = 0; c < count; c += S::kTileRows) {
      const Range keys{c, smaller(c + S::kTileRows, count)};
      const Range seeing = queries_that_see(keys);
      if (seeing.empty()) continue;
      const index_t r = seeing.begin - rows.begin;
      *block.multiply_adds += add_row_tile<S>(keys.size(), columns, {weights + c * kQueries + r, kQueries, 1}, {x.row(r), x.row_stride},
                                              seeing.size(), to.at(c, 0), !queries_finite);
    }
  }

  Range queries_that_see(Range keys) const {
    if (scores.chunk.list != nullptr) return rows;
    const index_t first = scores.chunk.keys.begin;
    return block.walk.band.transposed().keys_any({first + keys.begin, first + keys.end}).intersect(rows);
  }

  void add_to_queries(const Rows& k, const Sums<T>& to) const {
    const bool exactly = !finite(k);
    for (index_t r = 0; r < rows.size(); r += S::kTileRows) {
      const Range some{rows.begin + r, smaller(rows.begin + r + S::kTileRows, rows.end)};
      const Range keys = scores.seen_by(some);
      if (keys.empty()) continue;
      *block.multiply_adds += add_row_tile<S>(some.size(), block.dim, {scratch.d_s + keys.begin * kQueries + r, 1, kQueries},
                                              {k.row(keys.begin), k.row_stride}, keys.size(), to.at(r, 0), exactly);
    }
  }

  bool finite(const Rows& k) const {
    for (index_t c = 0; c < scores.chunk.size(); ++c)
      if (!all_finite<S>(k.row(c), block.dim)) return false;
    return true;
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
