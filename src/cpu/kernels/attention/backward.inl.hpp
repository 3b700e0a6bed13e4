// src/cpu/kernels/attention/backward.inl.hpp: the gradients of a block of queries, chunk by chunk of keys. P is computed again.
//
//   P = 2^(scores - lse)      d_P = d_out vT      d_S = P (w d_P - (w delta - d_lse)),  delta = sum of d_out * out
//   d_v += (w P)T d_out       d_k += d_ST q       d_q += d_S k       (d_S times the softcap's slope for d_k and d_q)
//
// w = 1 / (1 + exp(sink - lse)) is the share of the softmax that the sink leaves to the keys, 1 without sinks. Dropout multiplies d_P, and
// P in d_v.
#pragma once

#include "cpu/kernels/attention/backward_phases.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <class T>
struct BackwardScratch : BackwardNumbers<T> {
  // Transposed q and d_out [D][kQueries] and a vector; packed rows of k, v, q and d_out; sums of d_q [kQueries][padded D]; sums of the
  // held keys.
  T *queries, *d_out_transposed, *k, *v, *q, *d_out, *d_q;
  T* key_sums;

  BackwardScratch(const AttentionBlock& block, index_t lanes) {
    T* next = static_cast<T*>(block.scratch);
    const auto taken = [&](index_t count) {
      T* of = next;
      next += round_up(count, kMaxLanes);
      return of;
    };
    const index_t dim = padded(block.dim), value_dim = padded(block.value_dim);
    queries = taken(block.dim * lanes + kMaxLanes), d_out_transposed = taken(block.value_dim * lanes + kMaxLanes);
    BackwardNumbers<T>::take(kBackwardChunk * lanes, lanes, value_dim, taken);
    k = taken(kBackwardChunk * dim), v = taken(kBackwardChunk * value_dim), q = taken(lanes * dim), d_out = taken(lanes * value_dim);
    d_q = taken(lanes * dim);
    key_sums = next;
  }
};

template <Simd S, class E>
struct AttentionBackward : BackwardPhases<S, E, Scores<S, E, BackwardShape<S>>> {
  using Base = BackwardPhases<S, E, Scores<S, E, BackwardShape<S>>>;
  using T = typename S::Scalar;
  using Rows = KeyRows<T>;
  using Shape = BackwardShape<S>;
  using Scratch = BackwardScratch<T>;
  static constexpr index_t kQueries = Shape::kQueries, kChunk = Shape::kChunk, kKeysOfTile = Shape::kKeys;
  using Base::block, Base::head, Base::rows, Base::scores;

  const Scratch& scratch;
  Rows q{}, d_out{};
  bool queries_finite = true;

  AttentionBackward(const AttentionBlock& of, const Scratch& memory, const AttentionHead& taken, Prefetcher& ahead)
      : Base{of, memory, taken, {{of, memory.p, of.options.softcap > 0 ? memory.slopes : nullptr}, memory.queries, ahead}},
        scratch(memory) {}

  template <class F>
  void for_each_chunk(F&& f) const {
    cpu::for_each_chunk(scores, rows, f);
  }

  // Of a block of queries.
  void take(Range of, bool first_time) {
    rows = of;
    scores.take_queries(head, rows);
    scores.gather.transposed(head.d_out, rows, block.value_dim, T{1}, scratch.d_out_transposed, kQueries);
    queries_finite = finite(scratch.queries, block.dim) && finite(scratch.d_out_transposed, block.value_dim);
    q = scores.gather.queries(head.q, rows, block.dim, scratch.q);
    d_out = scores.gather.queries(head.d_out, rows, block.value_dim, scratch.d_out);
    Base::take_rows(first_time, [&](auto&& f) {
      for_each_chunk([&](const Chunk& chunk) {
        scores.compute(chunk, scores.gather.keys(block.k, chunk, block.dim, false, scratch.k));
        f();
      });
    });
  }

  bool finite(const T* transposed, index_t columns) const {
    for (index_t n = 0; n < columns; ++n)
      if (!all_finite<S>(transposed + n * kQueries, rows.size())) return false;
    return true;
  }

  // Adds to d_k and d_v of these keys, of the walk or of a list of global ones, and to the sums of d_q.
  void differentiate(const Chunk& chunk, const Sums<T>& d_k, const Sums<T>& d_v, const Sums<T>& d_q) {
    const Rows k = scores.gather.keys(block.k, chunk, block.dim, true, scratch.k);
    scores.compute(chunk, k);
    Base::exponentiate();
    if (Base::wants_scores())
      scores.multiply(scores.gather.keys(block.v, chunk, block.value_dim, false, scratch.v), scratch.d_out_transposed, block.value_dim,
                      scratch.d_s);
    Base::subtract_and_share();
    if (Base::wants_v) add_to_keys(scratch.p, d_out, block.value_dim, d_v);
    if (block.options.softcap > 0) Base::multiply_with_slopes();
    if (Base::wants_k) add_to_keys(scratch.d_s, q, block.dim, d_k);
    if (Base::wants_q) add_to_queries(k, d_q);
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
};

}  // namespace
}  // namespace window_matmul::cpu
