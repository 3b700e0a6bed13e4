// src/cpu/kernels/attention/backward_phases.inl.hpp: what becomes of a tile of scores in the backward pass, but for the products.
#pragma once

#include "cpu/kernels/attention/backward_queries.inl.hpp"
#include "cpu/kernels/attention/dropout.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E, class AnyScores>
struct BackwardPhases : BackwardQueries<S, E, AnyScores> {
  using Queries = BackwardQueries<S, E, AnyScores>;
  using Queries::block, Queries::scratch, Queries::head, Queries::scores;
  using Queries::kLanes, Queries::kQueries;
  using typename Queries::T;

  const bool wants_k = block.d_k.address != 0, wants_v = block.d_v.address != 0, wants_q = head.d_q.address != 0;
  const bool wants_bias = head.d_bias.address != 0 || head.d_bias_sums != nullptr;

  bool wants_scores() const { return wants_k || wants_q || wants_bias; }

  // Scores have become P, and d_s holds d_P where that is wanted.
  void subtract_and_share() const {
    if (wants_scores() || block.options.dropout_p > 0) block.options.dropout_p > 0 ? subtract_dropped() : subtract();
    if (wants_scores()) scores.clear_unseen(scratch.d_s);
    if (block.options.has_sinks && block.options.dropout_p == 0) leave_to_sink();
    if (wants_bias && scores.chunk.list == nullptr) BiasOfTile<S, E, AnyScores>{scores}.add_gradient(scratch.d_s);
  }

  // The gradients of scores become those of products.
  void pass_to_products() const {
    if (block.options.softcap > 0) multiply_with_slopes();
    if (block.options.d_score_factor != 1) multiply_with_factor();
  }

  void exponentiate() const {
    for (index_t v = 0; v < AnyScores::kColumns; ++v)
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

  void multiply_with_factor() const {
    const auto factor = S::splat(static_cast<T>(block.options.d_score_factor));
    scores.for_each_seen([&](index_t c, index_t v) {
      T* const d_s = scratch.d_s + c * kQueries + v * kLanes;
      S::store(d_s, S::mul(S::load(d_s), factor));
    });
  }
};

}  // namespace
}  // namespace window_matmul::cpu
