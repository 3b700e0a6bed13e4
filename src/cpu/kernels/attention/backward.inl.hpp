// src/cpu/kernels/attention/backward.inl.hpp: the gradients of a block of queries, chunk by chunk of keys. P is computed again.
//
//   P = 2^(scores - lse)      d_P = d_out vT      d_S = P (w d_P - (w delta - d_lse)),  delta = sum of d_out * out
//   d_v += (w P)T d_out       d_k += d_ST q       d_q += d_S k       (d_S times the softcap's slope for d_k and d_q)
//
// w = 1 / (1 + exp(sink - lse)) is the share of the softmax that the sink leaves to the keys, 1 without sinks. Dropout multiplies d_P, and
// P in d_v.
#pragma once

#include "cpu/kernels/attention/backward_phases.inl.hpp"
#include "cpu/kernels/attention/keys.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <class T>
struct BackwardScratch : BackwardNumbers<T> {
  // Transposed q and d_out [D][kQueries] and a vector; packed rows of k, v, q and d_out; sums of d_q [kQueries][padded D]; sums of the held
  // keys.
  T *queries, *d_out_transposed, *k, *v, *q, *d_out, *d_q;
  T* key_sums;
  T* copied;  // in pairs: rows of k as they are, behind the sums

  BackwardScratch(void* memory, const AttentionBlock& block, index_t lanes) {
    Taker<T> taken{static_cast<T*>(memory)};
    const index_t dim = padded(block.dim), value_dim = padded(block.value_dim);
    queries = taken(block.dim * lanes + kMaxLanes), d_out_transposed = taken(block.value_dim * lanes + kMaxLanes);
    this->take(kBackwardChunk * lanes, lanes, block.value_dim, taken);
    k = taken(kBackwardChunk * dim), v = taken(kBackwardChunk * value_dim), q = taken(lanes * dim), d_out = taken(lanes * value_dim);
    d_q = taken(lanes * dim);
    key_sums = taken.next;
    copied = key_sums + (block.key_sums.capacity + kBackwardChunk) * (dim + value_dim);
  }
};

template <Simd S, class E>
struct AttentionBackward : BackwardPhases<S, E, Scores<S, E, BackwardShape<S>>> {
  using Phases = BackwardPhases<S, E, Scores<S, E, BackwardShape<S>>>;
  using Phases::block, Phases::head, Phases::scores, Phases::rows;
  using Phases::kLanes, Phases::kQueries;
  using typename Phases::T, typename Phases::WideOut;
  using Rows = KeyRows<T>;
  using Shape = BackwardShape<S>;
  struct Scratch : BackwardScratch<T> {
    Scratch(void* memory, const AttentionBlock& block) : BackwardScratch<T>(memory, block, kQueries) {}
  };
  static constexpr index_t kChunk = Shape::kChunk, kKeysOfTile = Shape::kKeys;

  const Scratch& scratch;
  const Keys<S, E> key_rows{scores.gather, block.k, block.dim, block.held_k, scratch.k};
  const Keys<S, E> value_rows{scores.gather, block.v, block.value_dim, block.held_v, scratch.v};
  Rows q{}, d_out{}, k{};  // k: of the chunk
  T largest_query = 0, largest_key = 0;  // infinite where an element is not finite
  bool queries_finite = true;

  AttentionBackward(const AttentionBlock& of, const Scratch& memory, const AttentionHead& taken, Prefetcher& ahead)
      : Phases{{of, memory, taken, {of, memory.queries, memory.p, of.options.softcap > 0 ? memory.slopes : nullptr, ahead}}},
        scratch(memory) {}

  template <class F>
  void for_each_chunk(F&& f) const {
    cpu::for_each_chunk(scores, rows, f);
  }

  // ---- a block of queries -----------------------------------------------------------------------------------------------------------

  // What concerns the queries alone is left out where the block is met again.
  void take(Range of, bool first_time) {
    Phases::take_log_sum_exps(of);
    scores.take_queries(head, rows, scratch.k);
    block.options.out_is_f32 ? take_gradients<WideOut>() : take_gradients<E>();
    q = scores.gather.queries(head.q, rows, block.dim, scratch.q);
    largest_query = largest_of_rows(q, rows.size(), block.dim);
    queries_finite = largest_query <= std::numeric_limits<T>::max() && is_finite(d_out);
    if (Phases::any_coarse && block.walk.query_list == nullptr) sum_again();
    for (index_t r = 0; r < rows.size(); ++r) Phases::take_row(r, first_time);
  }

  template <class Out>
  void take_gradients() {
    const Gather<S, Out> gather{block.walk};
    if constexpr (kInPairs<S, Out>)
      transpose_in_pairs<S>(gather, head.d_out, rows, block.value_dim, reinterpret_cast<bf16*>(scratch.v), scratch.d_out_transposed,
                            kQueries);
    else
      gather.transposed(head.d_out, rows, block.value_dim, T{1}, scratch.d_out_transposed, kQueries);
    d_out = gather.queries(head.d_out, rows, block.value_dim, scratch.d_out);
  }

  // A log-sum-exp is rounded to a part of its size. Where that is felt, as where a bias is low for all keys that a query sees, the sum is
  // taken again, and m and log2 l are subtracted one after the other. (Not for global queries: their keys belong to many items.)
  void sum_again() {
    const OnlineSoftmax<S, Scores<S, E, Shape>> softmax{scores, scratch.highest, scratch.log_total, scratch.factor};
    softmax.start();
    for_each_chunk([&](const Chunk& chunk) {
      compute(chunk);
      softmax.exponentiate();
    });
    for (index_t r = 0; r < kQueries; ++r) {
      const bool again = Phases::is_coarse(scratch.lse[r]) && scratch.log_total[r] > 0;
      scratch.lse[r] = again ? scratch.highest[r] : scratch.lse[r];
      scratch.log_total[r] = again ? logarithm2(scratch.log_total[r]) * (scores.natural ? in_natural<T>(false) : 1) : T{0};
    }
    Phases::careful = true;
  }

  bool is_finite(const Rows& of) const { return largest_of_rows(of, rows.size(), block.value_dim) <= std::numeric_limits<T>::max(); }

  static T largest_of_rows(const Rows& of, index_t count, index_t columns) {
    Largest<S> largest;
    for (index_t r = 0; r < count; ++r) largest.add(of.row(r), columns);
    return largest.value();
  }

  T largest_seen(const Chunk& chunk) const {
    Largest<S> largest;
    for (index_t c = 0; c < chunk.size(); ++c)
      if (!block.options.has_key_mask || block.options.key_mask.contains(scores.gather.position(chunk, c)))
        largest.add(k.row(c), block.dim);
    return largest.value();
  }

  bool is_wide(const Chunk& chunk) const {
    const auto needs = [&](T key) {
      return needs_wide(block.options, block.dim, largest_query, key) || (kInPairs<S, E> && are_large(block.dim, largest_query, key));
    };
    return (!(largest_key <= std::numeric_limits<T>::max()) || needs(largest_key)) && needs(largest_seen(chunk));
  }

  // ---- a chunk of keys --------------------------------------------------------------------------------------------------------------

  // Adds to d_k and d_v of these keys, of the walk or of a list of global ones, and to the sums of d_q.
  void differentiate(const Chunk& chunk, const Sums<T>& d_k, const Sums<T>& d_v, const Sums<T>& d_q) {
    compute(chunk);
    Phases::exponentiate();
    if (Phases::wants_scores()) multiply_with_values(chunk);
    Phases::subtract_and_share();
    if (Phases::wants_v) add_to_keys(scratch.p, d_out, block.value_dim, d_v);
    Phases::pass_to_products();
    if (Phases::wants_k) add_to_keys(scratch.d_s, q, block.dim, d_k);
    if (Phases::wants_q) add_to_queries(d_q);
  }

  void compute(const Chunk& chunk) {
    k = key_rows.rows(chunk, true);
    largest_key = largest_of_rows(k, chunk.size(), block.dim);
    const bool wide = is_wide(chunk);
    if constexpr (kInPairs<S, E>)
      scores.compute(chunk, scores.keys(block.k, chunk, block.dim, scratch.copied), wide);
    else
      scores.compute(chunk, k, wide);
  }

  // d_P, in the place of the gradients of scores.
  void multiply_with_values(const Chunk& chunk) const {
    const auto multiply = [&](const auto& v) { scores.multiply(v, scratch.d_out_transposed, block.value_dim, T{1}, scratch.d_s); };
    if constexpr (kInPairs<S, E>)
      if (!block.options.out_is_f32) return multiply(scores.keys(block.v, chunk, block.value_dim, scratch.v));
    multiply(value_rows.rows(chunk, false));
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

  void add_to_queries(const Sums<T>& to) const {
    const bool exactly = !(largest_key <= std::numeric_limits<T>::max());
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
