// src/cpu/kernels/attention/backward.inl.hpp: the gradients of a block of queries, chunk by chunk of keys. P is computed again.
//
//   P = 2^(scores - lse)      d_P = d_out vT      d_S = P (w d_P - (w delta - d_lse)),  delta = sum of d_out * out
//   d_v += (w P)T d_out       d_k += d_ST q       d_q += d_S k       (d_S times the softcap's slope for d_k and d_q)
//
// w = 1 / (1 + exp(sink - lse)) is the share of the softmax that the sink leaves to the keys, 1 without sinks. Dropout multiplies d_P, and
// P in d_v.
#pragma once

#include "cpu/kernels/attention/backward_queries.inl.hpp"
#include "cpu/kernels/attention/dropout.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct AttentionBackward : BackwardQueries<S, E> {
  using Queries = BackwardQueries<S, E>;
  using Queries::block, Queries::scratch, Queries::head, Queries::scores, Queries::rows, Queries::q, Queries::d_out;
  using Queries::kLanes, Queries::kQueries;
  using typename Queries::Rows, typename Queries::Shape, typename Queries::T;

  const bool wants_k = block.d_k.address != 0, wants_v = block.d_v.address != 0, wants_q = head.d_q.address != 0;
  const bool wants_bias = head.d_bias.address != 0 || head.d_bias_sums != nullptr;

  // ---- a chunk of keys --------------------------------------------------------------------------------------------------------------

  // Adds to d_k and d_v of these keys, of the walk or of a list of global ones, and to the sums of d_q.
  void differentiate(const Chunk& chunk, const Sums<T>& d_k, const Sums<T>& d_v, const Sums<T>& d_q) {
    const Rows k = scores.gather.keys(block.k, chunk, block.dim, true, scratch.k);
    const T largest_key = Queries::largest_of_rows(k, chunk.size(), block.dim);
    scores.compute(chunk, k, Queries::is_wide(chunk, k, largest_key));
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
    if (block.options.d_score_factor != 1) multiply_with_factor();
    if (wants_k) add_to_keys(scratch.d_s, q, block.dim, d_k);
    if (wants_q) add_to_queries(k, d_q, !(largest_key <= std::numeric_limits<T>::max()));
  }

  void exponentiate() const {
    for (index_t v = 0; v < Shape::kColumns; ++v)
      scores.natural     ? exponentiate_column<true, true>(v)
      : Queries::careful ? exponentiate_column<true, false>(v)
                         : exponentiate_column<false, false>(v);
    scores.clear_unseen(scratch.p);
  }

  template <bool Careful, bool Natural>
  void exponentiate_column(index_t v) const {
    const auto zero = S::zero(), lowest = S::splat(std::numeric_limits<T>::lowest());
    const auto lse = S::load(scratch.lse + v * kLanes), log_total = S::load(scratch.log_total + v * kLanes);
    T* p = scores.at(scores.seen[v].begin, v);
    T* const end = scores.at(scores.seen[v].end, v);
    for (; p < end; p += kQueries) {
      const auto score = S::load(p), beside = S::sub(score, lse), difference = Careful ? S::sub(beside, log_total) : beside;
      const auto exponent = Natural ? S::mul(difference, S::splat(kLog2E<T>)) : difference;
      const auto power = exp2_nonpositive<S>(S::min(zero, exponent));  // rounded, it may exceed 0
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

  void multiply_with_factor() const {
    const auto factor = S::splat(static_cast<T>(block.options.d_score_factor));
    scores.for_each_seen([&](index_t c, index_t v) {
      T* const d_s = scratch.d_s + c * kQueries + v * kLanes;
      S::store(d_s, S::mul(S::load(d_s), factor));
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
                                              seeing.size(), to.at(c, 0), !Queries::queries_finite);
    }
  }

  Range queries_that_see(Range keys) const {
    if (scores.chunk.list != nullptr) return rows;
    const index_t first = scores.chunk.keys.begin;
    return block.walk.band.transposed().keys_any({first + keys.begin, first + keys.end}).intersect(rows);
  }

  void add_to_queries(const Rows& k, const Sums<T>& to, bool exactly) const {
    for (index_t r = 0; r < rows.size(); r += S::kTileRows) {
      const Range some{rows.begin + r, smaller(rows.begin + r + S::kTileRows, rows.end)};
      const Range keys = scores.seen_by(some);
      if (keys.empty()) continue;
      *block.multiply_adds += add_row_tile<S>(some.size(), block.dim, {scratch.d_s + keys.begin * kQueries + r, 1, kQueries},
                                              {k.row(keys.begin), k.row_stride}, keys.size(), to.at(r, 0), exactly);
    }
  }
};

}  // namespace
}  // namespace window_matmul::cpu
