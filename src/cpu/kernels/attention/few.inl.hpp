// src/cpu/kernels/attention/few.inl.hpp: forward of a few rows (decoding): lanes of queries would be empty, and memory is the limit.
//
//   scores   a square of sums, kRows rows and as many keys as fill it: sums[key, row] += k(key, n ..) * q(row, n ..). Lanes are the head
//            dim; the square is transposed and added up: one vector, whose lanes are the scores, key by key.
//   softmax  so a chunk of scores is [key][row] without gaps, and vectors are full: lane by lane, and at the end over the lanes of a row.
//   output   as everywhere: P is the scalars, rows of v are the vectors.
//
// Rows are pairs of a query and a head that share keys. Where several items share the keys, each leaves its sums, and the last one's
// thread merges all in the order of the keys:   m = max m_i    l = sum l_i 2^(m_i - m)    O = sum O_i 2^(m_i - m)
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867).
#pragma once

#include "cpu/kernels/attention/few_scores.inl.hpp"
#include "cpu/kernels/attention/output.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct AttentionFew : FewScores<S, E> {
  using Base = FewScores<S, E>;
  using Base::block, Base::num_rows, Base::squares, Base::q_stride, Base::tile, Base::packed_k, Base::gather, Base::natural;
  using Base::kLanes, Base::kRows, Base::kStripe, Base::kTile, Base::kVecs;
  using Base::position, Base::score, Base::at;
  using typename Base::T, typename Base::Vec;
  static constexpr index_t kChains = 4;  // vectors at a time: independent, as a maximum takes several cycles
  static_assert(kChains % kVecs == 0);

  // Scratch: packed rows of v, a factor a row, sums. What belongs to a row is held once for each key of a stripe: [kSquares][kStripe], so
  // that it meets the scores lane by lane.
  const index_t width = round_up(block.value_dim, kLanes);
  T* const packed_v = packed_k + kFewChunk * q_stride;
  T* const factor = packed_v + kFewChunk * padded(block.value_dim);
  const bool is_part = block.few.sums != nullptr && block.few.merged == 0;
  T* const sums = is_part ? static_cast<T*>(block.few.sums) : factor + kFewStats;
  T* const highest = sums + num_rows * width;
  T* const total = highest + kFewStats;
  T* const unit = total + kFewStats;  // of a part: whether its maxima are natural
  bool started = false;
  const bool* rewritten = nullptr;  // which rows are written; null: all

  void run() {
    if (block.few.merged > 0) {
      merge();
      finish();
    } else {
      Base::take_queries();
      if (!attend(false, block.options.is_wide)) attend(true, block.options.is_wide);  // in the place of what was written
      if (!block.options.is_wide && !all_near()) rewrite();
      if (is_part) *unit = natural ? T{1} : T{0};
    }
  }

  bool all_near() const {
    bool near = true;
    for (index_t square = 0; square < squares; ++square)
      near = are_near<S>(highest + square * kStripe, total + square * kStripe, smaller(num_rows - square * kRows, kRows)) && near;
    return near;
  }

  // As in forward.inl.hpp; of a part all rows, whose sums have one unit.
  void rewrite() {
    Largest<S> queries_given, keys_given;
    for (index_t r = 0; r < num_rows; ++r) add_row(gather, block.heads[r].q, position(r), block.dim, packed_k, &queries_given);
    Base::for_each_chunk_of_keys([&](const Chunk& chunk) { add_keys(block, gather, chunk, packed_k, &keys_given); });
    const T query = queries_given.value(), key = keys_given.value();
    bool which[kFewRows];
    bool any = false;
    const bool wide = needs_wide(block.options, block.dim, query, key) || (kInPairs<S, E> && are_large(block.dim, query, key));
    for (index_t r = 0; r < num_rows; ++r) any = is_worth_while(query, key, wide, highest + at(r), total + at(r), 1, which + r) || any;
    if (!any || (natural && !wide)) return;
    natural = true, rewritten = is_part ? nullptr : which;
    Base::take_queries();
    if (!attend(false, wide)) attend(true, wide);
  }

  // False where a sum is not finite.
  bool attend(bool exactly, bool wide) {
    started = false;
    fill_row(kMinusInfinity<T>, highest, 1, {0, kFewStats});
    fill_row(T{0}, total, 1, {0, kFewStats});
    Base::for_each_chunk_of_keys([&](const Chunk& chunk) {
      Base::with_rows_of(block.k, chunk, block.dim, packed_k, [&](const auto& k) {
        if (wide) return Base::multiply_widely(chunk, k);
        for (index_t square = 0; square < squares; ++square) Base::multiply(square, chunk, k);
        if (block.options.softcap > 0) Base::cap(chunk.size());
      });
      Base::apply_options(chunk);
      for (index_t square = 0; square < squares; ++square) exponentiate(square, chunk.size());
      if (block.options.dropout_p > 0) drop(chunk);
      Base::with_rows_of(block.v, chunk, block.value_dim, packed_v, [&](const auto& v) { weigh(chunk, v, exactly); });
      started = true;
    });
    if (!started) fill_row(T{0}, sums, 1, {0, num_rows * width});
    return is_part ? all_finite<S>(sums, num_rows * width) : finish();
  }

  // ---- softmax ----------------------------------------------------------------------------------------------------------------------

  // All lanes of a row of a stripe become op over these lanes and the vectors of the chains that hold the row.
  template <class F>
  [[gnu::always_inline]] static void over_rows(Vec (&chains)[kChains], F&& op) {
#pragma GCC unroll 4
    for (index_t i = kChains - 1; i >= kVecs; --i) chains[i - kVecs] = op(chains[i - kVecs], chains[i]);
    for (index_t half = kLanes / 2; half >= kRows; half /= 2) {
      T twice[2 * kLanes];
      S::store(twice, chains[0]), S::store(twice + kLanes, chains[0]);
      chains[0] = op(chains[0], S::load(twice + half));
    }
  }

  // The scores of a square become weights.
  void exponentiate(index_t square, index_t keys) { natural ? exponentiate_in<true>(square, keys) : exponentiate_in<false>(square, keys); }

  template <bool Natural>
  [[gnu::always_inline]] static Vec power(Vec difference) {
    return exp2_nonpositive<S>(Natural ? S::mul(difference, S::splat(kLog2E<T>)) : difference);
  }

  template <bool Natural>
  void exponentiate_in(index_t square, index_t keys) {
    T *const x = tile + square * kTile, *const end = x + round_up(keys, kLanes) * kRows;  // kChains vectors at a time
    T *const m = highest + square * kStripe, *const l = total + square * kStripe, *const by = factor + square * kStripe;
    fill_row(kMinusInfinity<T>, x, 1, {keys * kRows, end - x});
    Vec chains[kChains], offsets[kVecs];
    for (index_t i = 0; i < kChains; ++i) chains[i] = S::load(m + i % kVecs * kLanes);
    for (const T* from = x; from < end; from += kChains * kLanes)
#pragma GCC unroll 4
      for (index_t i = 0; i < kChains; ++i) chains[i] = S::max(chains[i], S::load(from + i * kLanes));
    over_rows(chains, [](Vec a, Vec b) { return S::max(a, b); });
    for (index_t i = 0; i < kVecs; ++i) {
      offsets[i] = finite_offset<S>(chains[i]);
      S::store(by + i * kLanes, power<Natural>(S::sub(S::load(m + i * kLanes), offsets[i])));
      S::store(m + i * kLanes, chains[i]);
    }
    for (index_t i = 0; i < kChains; ++i) chains[i] = S::zero();
    for (T* to = x; to < end; to += kChains * kLanes)
#pragma GCC unroll 4
      for (index_t i = 0; i < kChains; ++i) {
        const auto weight = power<Natural>(S::sub(S::load(to + i * kLanes), offsets[i % kVecs]));
        S::store(to + i * kLanes, weight);
        chains[i] = S::add(chains[i], weight);
      }
    over_rows(chains, [](Vec a, Vec b) { return S::add(a, b); });
    for (index_t i = 0; i < kVecs; ++i) S::store(l + i * kLanes, S::fma(S::load(l + i * kLanes), S::load(by + i * kLanes), chains[i]));
  }

  // What is dropped is zero, even a NaN. Pair by pair: few are.
  void drop(const Chunk& chunk) const {
    const double p = block.options.dropout_p;
    const T gain = static_cast<T>(p < 1 ? 1 / (1 - p) : 0);
    for (index_t r = 0; r < num_rows; ++r)
      for (index_t c = 0; c < chunk.size(); ++c) {
        const index_t i = position(r), j = gather.position(chunk, c);
        const bool kept = block.draws.keeps(p, block.heads[r].index, i, j);
        score(r, c) = kept ? gain * score(r, c) : T{0};
      }
  }

  // ---- output -----------------------------------------------------------------------------------------------------------------------

  template <class V>
  void weigh(const Chunk& chunk, const KeyRows<V>& v, bool exactly) const {
    const Later next = Base::next_keys(chunk);
    for (index_t r = 0; r < num_rows; r += kRows) {
      const Scalars<T> weights{&score(r, 0), 1, kRows};
      const Sums<T> to{sums + r * width, width, started ? Start::scale : Start::clear, factor + at(r)};
      const Vectors<V> rows{v.data, v.row_stride};
      const auto add = [&](const auto& later) {
        return add_row_tile<S, kRows>(smaller(num_rows - r, kRows), block.value_dim, weights, rows, chunk.size(), to, exactly, later);
      };
      *block.multiply_adds += r == 0 && next.row != 0 ? add(next) : add(Nothing{});
    }
  }

  // The parts' sums, in their order. A factor of zero adds nothing, whatever the sums are. Where maxima are natural, all become so.
  void merge() {
    const T* const parts = static_cast<const T*>(block.few.sums);
    const index_t stride = elements_of_sums(num_rows, block.value_dim), stats = squares * kStripe;
    const auto of = [&](index_t part) { return parts + part * stride + num_rows * width; };
    fill_row(kMinusInfinity<T>, highest, 1, {0, stats});
    fill_row(T{0}, total, 1, {0, stats});
    fill_row(T{0}, sums, 1, {0, num_rows * width});
    for (index_t part = 0; part < block.few.merged; ++part) natural = natural || of(part)[2 * kFewStats] != 0;
    const auto unit_of = [&](index_t part) { return S::splat(in_natural<T>(!natural || of(part)[2 * kFewStats] != 0)); };
    for (index_t part = 0; part < block.few.merged; ++part)
      for (index_t i = 0; i < stats; i += kLanes)
        S::store(highest + i, S::max(S::load(highest + i), S::mul(S::load(of(part) + i), unit_of(part))));
    for (index_t part = 0; part < block.few.merged; ++part) {
      for (index_t i = 0; i < stats; i += kLanes) {
        const auto difference = S::sub(S::mul(S::load(of(part) + i), unit_of(part)), finite_offset<S>(S::load(highest + i)));
        const auto by = natural ? power<true>(difference) : power<false>(difference);
        S::store(factor + i, by);
        S::store(total + i, S::fma(S::load(of(part) + kFewStats + i), by, S::load(total + i)));
      }
      for (index_t r = 0; r < num_rows; ++r)
        if (factor[at(r)] != 0) add_scaled(parts + part * stride + r * width, factor[at(r)], sums + r * width);
    }
  }

  void add_scaled(const T* from, T by, T* to) const {
    for (index_t n = 0; n < width; n += kLanes) S::store(to + n, S::fma(S::splat(by), S::load(from + n), S::load(to + n)));
  }

  // False where an output is not finite.
  bool finish() const {
    bool finite = true;
    for (index_t r = 0; r < num_rows; ++r) {
      if (rewritten != nullptr && !rewritten[r]) continue;
      const AttentionHead& head = block.heads[r];
      const T m = highest[at(r)], l = total[at(r)];
      T* const lse = head.lse.address != 0 ? Matrix2<T>(head.lse).at(position(r), 0) : nullptr;
      if (lse != nullptr) *lse = log_sum_exp(m, l, natural);
      if (block.options.splits_lse) write_split(m, l, lse, head.lse.col_stride);
      const T by = inverse_total(block.options, head, m, l, natural);
      finite = write_output<S, E>(block.options, sums + r * width, block.value_dim, by, head.out, position(r)) && finite;
    }
    return finite;
  }
};

}  // namespace
}  // namespace window_matmul::cpu
