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

#include "cpu/kernels/attention/output.inl.hpp"
#include "cpu/kernels/attention/scores.inl.hpp"
#include "philox.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct AttentionFew {
  using T = typename S::Scalar;
  using Vec = typename S::Vec;
  static constexpr index_t kLanes = S::kLanes, kRows = kRowsAtOnce, kSquares = kFewRows / kRows;
  // A stripe: the scores of all rows of a square with as many keys as fill a vector, or with one key in several vectors.
  static constexpr index_t kStripe = larger(kLanes, kRows), kKeys = kStripe / kRows, kVecs = kStripe / kLanes;
  static constexpr index_t kChains = 4;  // vectors at a time: independent, as a maximum takes several cycles
  static constexpr index_t kTile = (kFewChunk + kMaxLanes) * kRows;  // scores of a square, with room for what whole vectors reach
  static_assert(kStripe % kRows == 0 && kStripe % kLanes == 0 && kChains % kVecs == 0 && kStripe <= kMaxLanes);

  const AttentionBlock& block;
  const index_t num_rows = block.rows.size(), squares = ceil_div(num_rows, kRows);
  const index_t width = round_up(block.value_dim, kLanes), q_stride = padded(block.dim);
  // Scratch: queries [kFewRows][padded D], scores [kSquares][kTile], packed rows of k and of v, a factor a row, sums. What belongs to a row
  // is held once for each key of a stripe: [kSquares][kStripe], so that it meets the scores lane by lane.
  T* const queries = static_cast<T*>(block.scratch);
  T* const tile = queries + kFewRows * q_stride;
  T* const packed_k = tile + kSquares * kTile;
  T* const packed_v = packed_k + kFewChunk * q_stride;
  T* const factor = packed_v + kFewChunk * padded(block.value_dim);
  const bool is_part = block.few.sums != nullptr && block.few.merged == 0;
  T* const sums = is_part ? static_cast<T*>(block.few.sums) : factor + kFewStats;
  T* const highest = sums + num_rows * width;
  T* const total = highest + kFewStats;
  const Gather<S, E> gather{block.walk};
  bool started = false;

  void run() {
    if (block.few.merged > 0) {
      merge();
      finish();
    } else {
      take_queries();
      if (!attend(false)) attend(true);  // in the place of what was written
    }
  }

  index_t query(index_t r) const { return (block.rows.begin + r) / block.few.heads; }
  index_t position(index_t r) const { return block.walk.query(query(r)); }
  T& score(index_t r, index_t c) const { return tile[r / kRows * kTile + c * kRows + r % kRows]; }
  // Where a number of the row is, in [kSquares][kStripe].
  static index_t at(index_t r) { return r / kRows * kStripe + r % kRows; }

  void take_queries() const {
    const double unit = block.options.softcap > 0 ? 1 / block.options.softcap : kLog2E<double>;
    const T by = static_cast<T>(block.options.scale * unit);
    fill_row(T{0}, queries, 1, {0, squares * kRows * q_stride});
    for (index_t r = 0; r < num_rows; ++r) {
      T* const row = queries + r * q_stride;
      gather.row(block.heads[r].q, position(r), block.dim, row);
      for (index_t n = 0; n < q_stride; ++n) row[n] *= by;
    }
  }

  // False where a sum is not finite.
  bool attend(bool exactly) {
    started = false;
    fill_row(kMinusInfinity<T>, highest, 1, {0, kFewStats});
    fill_row(T{0}, total, 1, {0, kFewStats});
    for_each_chunk_of_keys([&](const Chunk& chunk) {
      with_rows_of(block.k, chunk, block.dim, packed_k, [&](const auto& k) {
        for (index_t square = 0; square < squares; ++square) multiply(square, chunk, k);
      });
      apply_options(chunk);
      for (index_t square = 0; square < squares; ++square) exponentiate(square, chunk.size());
      if (block.options.dropout_p > 0) drop(chunk);
      with_rows_of(block.v, chunk, block.value_dim, packed_v, [&](const auto& v) { weigh(chunk, v, exactly); });
      started = true;
    });
    if (!started) fill_row(T{0}, sums, 1, {0, num_rows * width});
    return is_part ? all_finite<S>(sums, num_rows * width) : finish();
  }

  // Keys of the walk, then listed ones outside of the window.
  template <class F>
  [[gnu::always_inline]] void for_each_chunk_of_keys(F&& f) const {
    const Range keys = block.walk.band.keys_any({query(0), query(num_rows - 1) + 1}).intersect(block.few.keys);
    const index_t chunks = ceil_div(keys.size(), kFewChunk), even = round_up(ceil_div(keys.size(), larger(chunks, 1)), kMaxLanes);
    for (index_t key = keys.begin; key < keys.end; key += even) f(Chunk{{key, smaller(key + even, keys.end)}});
    for (index_t key = 0; key < block.num_global_keys; key += kFewChunk)
      f(Chunk{{0, smaller(block.num_global_keys - key, kFewChunk)}, block.global_keys + key});
  }

  // Calls f with the rows of a chunk. They are read once or twice: halves are not widened beforehand.
  template <class F>
  [[gnu::always_inline]] void with_rows_of(const Operand& from, const Chunk& chunk, index_t columns, T* packed, F&& f) const {
    gather.is_whole(from, chunk, columns) ? f(gather.stored(from, chunk)) : f(gather.keys(from, chunk, columns, true, packed));
  }

  // ---- scores -----------------------------------------------------------------------------------------------------------------------

  // Rows that are read later are asked for line by line between the multiply-adds: memory is not to rest while this computes, a burst
  // would hold up what is read now, and the rows of v are read in panels, an order that the hardware does not foresee.
  struct Ahead {  // of the rows of a square: addresses and strides in bytes
    std::uintptr_t k = 0, v = 0, k_stride = 0, v_stride = 0;

    template <index_t Keys>
    [[gnu::always_inline]] void fetch(index_t n) const {
      const auto column = static_cast<std::uintptr_t>(n) * sizeof(E);
#pragma GCC unroll 4
      for (std::uintptr_t i = 0; i < Keys; ++i) {
        __builtin_prefetch(reinterpret_cast<const void*>(v + i * v_stride + column), 0, 2);
        __builtin_prefetch(reinterpret_cast<const void*>(k + i * k_stride + column), 0, 2);
      }
    }
  };

  // Of v what this chunk is going to weigh; of k half a chunk ahead, or where rows are packed, of the next chunk.
  Ahead ahead_of(const Chunk& chunk, index_t c, bool packed) const {
    if (chunk.list != nullptr || block.k.col_stride != 1 || block.v.col_stride != 1) return {};
    const Matrix2<const E> k(block.k), v(block.v);
    const index_t key = chunk.keys.begin + c, later = key + (packed ? chunk.size() : kFewChunk / 2);
    const auto bytes = [&](index_t stride) { return static_cast<std::uintptr_t>(stride * block.walk.step) * sizeof(E); };
    return {reinterpret_cast<std::uintptr_t>(k.at(block.walk.key(later), 0)),
            reinterpret_cast<std::uintptr_t>(v.at(block.walk.key(key), 0)), bytes(k.row_stride), bytes(v.row_stride)};
  }

  template <class K>
  void multiply(index_t square, const Chunk& chunk, const KeyRows<K>& k) const {
    const index_t keys = chunk.size();
    const T* const q = queries + square * kRows * q_stride;
    T* const to = tile + square * kTile;
    if (block.dim == 0) return fill_row(T{0}, to, 1, {0, keys * kRows});
    for (index_t c = 0; c < keys;) {
      if (keys >= kKeys && c + kKeys > keys) c = keys - kKeys;  // the last square overlaps its neighbour
      const index_t done = keys >= kKeys ? kKeys : 1;
      const Ahead ahead = square == 0 ? ahead_of(chunk, c, static_cast<const void*>(k.data) == packed_k) : Ahead{};
      done == 1 ? products<1>(q, k.row(c), k.row_stride, to + c * kRows, ahead)
                : products<kKeys>(q, k.row(c), k.row_stride, to + c * kRows, ahead);
      c += done;
    }
    *block.multiply_adds += kRows * keys * block.dim;
  }

  // A stripe of scores; those behind `Keys` are zero. The head dim is positive.
  template <index_t Keys, class K>
  [[gnu::noinline]] void products(const T* q, const K* k, index_t k_stride, T* to, const Ahead& ahead) const {
    Vec square[kStripe];
#pragma GCC unroll 16
    for (index_t i = 0; i < kStripe; ++i) square[i] = S::zero();
    index_t n = 0;
    do {  // at least once: else GCC holds the zeros in memory
      if (ahead.k != 0) ahead.template fetch<Keys>(n);
      Vec key[Keys];
#pragma GCC unroll 4
      for (index_t i = 0; i < Keys; ++i) key[i] = S::load(k + i * k_stride + n);
#pragma GCC unroll 4
      for (index_t r = 0; r < kRows; ++r) {
        const auto row = S::in_register(S::load(q + r * q_stride + n));  // else GCC loads it again for each key
#pragma GCC unroll 4
        for (index_t i = 0; i < Keys; ++i) square[i * kRows + r] = S::fma(key[i], row, square[i * kRows + r]);
      }
      n += kLanes;
    } while (n < block.dim);
    if constexpr (kVecs > 1)
      for (index_t i = 0; i < kStripe; ++i) to[i] = S::sum(square[i]);
    else
      S::store(to, S::sums(square));
  }

  // ---- options ----------------------------------------------------------------------------------------------------------------------

  void apply_options(const Chunk& chunk) const {
    if (block.options.softcap > 0) cap(chunk.size());
    for (index_t r = 0; r < num_rows; ++r) {
      if (chunk.list != nullptr)
        hide_in_window(r, chunk);
      else
        hide_outside_band(r, chunk.keys);
    }
    for (index_t c = 0; block.options.has_key_mask && c < chunk.size(); ++c)
      if (!block.options.key_mask.contains(gather.position(chunk, c)))
        for (index_t r = 0; r < num_rows; ++r) score(r, c) = kMinusInfinity<T>;
  }

  void cap(index_t keys) const {
    const auto unit = S::splat(static_cast<T>(block.options.softcap * kLog2E<double>));
    for (index_t square = 0; square < squares; ++square)
      for (T *x = tile + square * kTile, *end = x + keys * kRows; x < end; x += kLanes)
        S::store(x, S::mul(hyperbolic_tangent<S>(S::load(x)), unit));
  }

  void hide_outside_band(index_t r, Range keys) const {
    const Range seen = block.walk.band.keys(query(r)).intersect(keys);
    if (block.options.has_bias && !seen.empty()) block.options.bias_is_f32 ? add_bias<float>(r, keys, seen) : add_bias<E>(r, keys, seen);
    for (index_t key = keys.begin; key < keys.end && seen.size() < keys.size(); ++key)
      if (!seen.contains(key)) score(r, key - keys.begin) = kMinusInfinity<T>;
  }

  template <class B>
  void add_bias(index_t r, Range keys, Range seen) const {
    const Matrix2<const B> bias(block.heads[r].bias);
    for (index_t key = seen.begin; key < seen.end; ++key) {
      const T b = static_cast<T>(widen(*bias.at(position(r), block.walk.band.slot(query(r), key))));
      T& of = score(r, key - keys.begin);
      of = b == kMinusInfinity<T> ? b : of + in_log2(b);  // -inf hides even a NaN
    }
  }

  void hide_in_window(index_t r, const Chunk& chunk) const {
    for (index_t c = 0; c < chunk.size(); ++c)
      if (!block.window.sees_global(position(r), chunk.list[c])) score(r, c) = kMinusInfinity<T>;
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
  void exponentiate(index_t square, index_t keys) {
    T *const x = tile + square * kTile, *const end = x + round_up(keys, kLanes) * kRows;  // kChains vectors at a time
    T *const m = highest + square * kStripe, *const l = total + square * kStripe, *const by = factor + square * kStripe;
    fill_row(kMinusInfinity<T>, x, 1, {keys * kRows, end - x});
    Vec chains[kChains], offsets[kVecs];
    for (index_t i = 0; i < kChains; ++i) chains[i] = S::load(m + i % kVecs * kLanes);
    for (const T* at = x; at < end; at += kChains * kLanes)
#pragma GCC unroll 4
      for (index_t i = 0; i < kChains; ++i) chains[i] = S::max(chains[i], S::load(at + i * kLanes));
    over_rows(chains, [](Vec a, Vec b) { return S::max(a, b); });
    for (index_t i = 0; i < kVecs; ++i) {
      offsets[i] = finite_offset<S>(chains[i]);
      S::store(by + i * kLanes, exp2_nonpositive<S>(S::sub(S::load(m + i * kLanes), offsets[i])));
      S::store(m + i * kLanes, chains[i]);
    }
    for (index_t i = 0; i < kChains; ++i) chains[i] = S::zero();
    for (T* at = x; at < end; at += kChains * kLanes)
#pragma GCC unroll 4
      for (index_t i = 0; i < kChains; ++i) {
        const auto power = exp2_nonpositive<S>(S::sub(S::load(at + i * kLanes), offsets[i % kVecs]));
        S::store(at + i * kLanes, power);
        chains[i] = S::add(chains[i], power);
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
        const bool kept = dropout_keeps(block.options.dropout_seed, p, block.sequence, block.heads[r].index, i, j);
        score(r, c) = kept ? gain * score(r, c) : T{0};
      }
  }

  // ---- output -----------------------------------------------------------------------------------------------------------------------

  template <class V>
  void weigh(const Chunk& chunk, const KeyRows<V>& v, bool exactly) const {
    for (index_t r = 0; r < num_rows; r += kRows) {
      const Scalars<T> weights{&score(r, 0), 1, kRows};
      const Sums<T> to{sums + r * width, width, started ? Start::scale : Start::clear, factor + at(r)};
      const Vectors<V> rows{v.data, v.row_stride};
      *block.multiply_adds +=
          add_row_tile<S, kRows>(smaller(num_rows - r, kRows), block.value_dim, weights, rows, chunk.size(), to, exactly);
    }
  }

  // The parts' sums, in their order. A factor of zero adds nothing, whatever the sums are.
  void merge() const {
    const T* const parts = static_cast<const T*>(block.few.sums);
    const index_t stride = elements_of_sums(num_rows, block.value_dim), stats = squares * kStripe;
    const auto of = [&](index_t part) { return parts + part * stride + num_rows * width; };
    fill_row(kMinusInfinity<T>, highest, 1, {0, stats});
    fill_row(T{0}, total, 1, {0, stats});
    fill_row(T{0}, sums, 1, {0, num_rows * width});
    for (index_t part = 0; part < block.few.merged; ++part)
      for (index_t i = 0; i < stats; i += kLanes) S::store(highest + i, S::max(S::load(highest + i), S::load(of(part) + i)));
    for (index_t part = 0; part < block.few.merged; ++part) {
      for (index_t i = 0; i < stats; i += kLanes) {
        const auto by = exp2_nonpositive<S>(S::sub(S::load(of(part) + i), finite_offset<S>(S::load(highest + i))));
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
      const AttentionHead& head = block.heads[r];
      const T m = highest[at(r)], l = total[at(r)];
      if (head.lse.address != 0) *Matrix2<T>(head.lse).at(position(r), 0) = log_sum_exp(m, l);
      const T by = inverse_total(block.options, head, m, l);
      finite = write_output<S, E>(sums + r * width, block.value_dim, by, head.out, position(r)) && finite;
    }
    return finite;
  }
};

}  // namespace
}  // namespace window_matmul::cpu
