// include/window_matmul/band.hpp: the one geometry of windows: who sees whom, tile by tile, and where it is stored.
//
//   left = 2, right = 1, shift = 0, 6 x 6        tile q 2..3: keys_any = [0,5), keys_all = [1,4)     band storage (slot)
//        k 0 1 2 3 4 5                                                                               q 0  . . D R
//    q 0   D R . . . .       D the aligned key (slot `left`)      k   0   1   2   3   4                1  . L D R
//      1   L D R . . .       L before it, R after it              q2 [L] [L   D   R ] [.]              2  L L D R
//      2   L L D R . .                                            q3 [.] [L   L   D ] [R]              3  L L D R
//      3   . L L D R .                                               edge   inner    edge              4  L L D R
//      4   . . L L D R                                                                                 5  L L D .
//      5   . . . L L D
//
// Everything is constexpr and runs on host and device. Nobody else does index arithmetic on windows.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define WINDOW_MATMUL_INLINE __host__ __device__ __forceinline__ constexpr
#else  // always_inline: a copy compiled with AVX-512 flags must never become the one that everybody calls
#define WINDOW_MATMUL_INLINE [[gnu::always_inline]] inline constexpr
#endif

namespace window_matmul {

using index_t = std::int64_t;

// A side that reaches beyond every sequence. Lengths, sides and shifts up to this value never wrap in the arithmetic below.
inline constexpr index_t kUnbounded = index_t{1} << 60;

WINDOW_MATMUL_INLINE index_t smaller(index_t a, index_t b) { return a < b ? a : b; }
WINDOW_MATMUL_INLINE index_t larger(index_t a, index_t b) { return a < b ? b : a; }
WINDOW_MATMUL_INLINE index_t clamp(index_t x, index_t low, index_t high) { return x < low ? low : x > high ? high : x; }
WINDOW_MATMUL_INLINE index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }
WINDOW_MATMUL_INLINE index_t round_up(index_t a, index_t b) { return ceil_div(a, b) * b; }
WINDOW_MATMUL_INLINE index_t floor_mod(index_t a, index_t b) { return (a % b + b) % b; }

struct Range {  // half-open; empty where end <= begin
  index_t begin = 0, end = 0;

  WINDOW_MATMUL_INLINE index_t size() const { return end > begin ? end - begin : 0; }
  WINDOW_MATMUL_INLINE bool empty() const { return end <= begin; }
  WINDOW_MATMUL_INLINE bool contains(index_t x) const { return begin <= x && x < end; }
  WINDOW_MATMUL_INLINE bool contains(Range r) const { return r.empty() || (begin <= r.begin && r.end <= end); }
  WINDOW_MATMUL_INLINE Range intersect(Range r) const {
    const index_t b = larger(begin, r.begin);
    return {b, larger(b, smaller(end, r.end))};
  }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

// A window bound to `rows` queries and `cols` keys. Query q is aligned with key q + shift and sees `left` keys before it, the aligned
// key, and `right` keys after it, as far as they exist.
struct Band {
  index_t rows = 0, cols = 0, left = 0, right = 0, shift = 0;

  WINDOW_MATMUL_INLINE index_t width() const { return left + 1 + right; }              // W, the columns of band storage
  WINDOW_MATMUL_INLINE index_t first(index_t q) const { return q + shift - left; }     // the key of slot 0; may lie outside
  WINDOW_MATMUL_INLINE index_t last(index_t q) const { return q + shift + right; }     // the key of slot W - 1; likewise
  WINDOW_MATMUL_INLINE index_t slot(index_t q, index_t k) const { return k - first(q); }

  // The definition.
  WINDOW_MATMUL_INLINE bool contains(index_t q, index_t k) const { return 0 <= k && k < cols && first(q) <= k && k <= last(q); }

  WINDOW_MATMUL_INLINE Range keys(index_t q) const { return clip(first(q), last(q) + 1); }
  WINDOW_MATMUL_INLINE Range slots(index_t q) const {  // the slots of row q whose key exists
    const Range k = keys(q);
    return k.empty() ? Range{0, 0} : Range{slot(q, k.begin), slot(q, k.end)};
  }
  // Keys that some query of a non-empty tile sees.
  WINDOW_MATMUL_INLINE Range keys_any(Range q) const { return clip(first(q.begin), last(q.end - 1) + 1); }
  // Keys that every query of a non-empty tile sees: there no mask is needed.
  WINDOW_MATMUL_INLINE Range keys_all(Range q) const { return clip(first(q.end - 1), last(q.begin) + 1); }
  // The same pairs seen from the keys: row k of the result is key k, its columns are queries.
  WINDOW_MATMUL_INLINE Band transposed() const { return {cols, rows, right, left, -shift}; }

  friend constexpr bool operator==(const Band&, const Band&) = default;

 private:
  WINDOW_MATMUL_INLINE Range clip(index_t begin, index_t end) const {
    const index_t b = clamp(begin, 0, cols);
    return {b, larger(b, smaller(end, cols))};
  }
};

// Calls f(Range keys, bool needs_mask) for the keys that some query of a non-empty tile sees, at most `block` at a time, starting at
// the band's first key. needs_mask is false where every query of the tile sees all of the keys.
template <class F>
WINDOW_MATMUL_INLINE void for_each_key_tile(const Band& band, Range queries, index_t block, F&& f) {
  const Range any = band.keys_any(queries), all = band.keys_all(queries);
  for (index_t k = any.begin; k < any.end; k += block) {
    const Range tile{k, smaller(k + block, any.end)};
    f(tile, !all.contains(tile));
  }
}

// Dilation d splits a band into d interleaved bands without dilation: query first_row + d*q sees key first_col + d*k
// iff `band` contains (q, k). Slots are the same.
struct DilatedPart {
  Band band;
  index_t first_row, first_col;
};

// Parts that hold at least one row. Each row belongs to exactly one of them.
WINDOW_MATMUL_INLINE index_t dilated_parts(const Band& band, index_t dilation) { return smaller(dilation, band.rows); }

WINDOW_MATMUL_INLINE DilatedPart dilated_part(const Band& band, index_t dilation, index_t part) {
  const index_t col = floor_mod(part + band.shift, dilation);
  const index_t rows = ceil_div(larger(band.rows - part, 0), dilation), cols = ceil_div(larger(band.cols - col, 0), dilation);
  return {{rows, cols, band.left, band.right, (part + band.shift - col) / dilation}, part, col};
}

// sum over q in [0, n) of clamp(q + x, 0, high), modulo 2^64
WINDOW_MATMUL_INLINE std::uint64_t sum_of_clamped(index_t n, index_t x, index_t high) {
  using U = std::uint64_t;
  const index_t ramp = clamp(-x, 0, n), flat = clamp(high - x, ramp, n);  // 0 before `ramp`, `high` from `flat` on
  const index_t steps = flat - ramp, twice_middle = ramp + flat - 1;      // one of the two is even
  const U ramp_sum = steps % 2 == 0 ? U(steps / 2) * U(twice_middle) : U(steps) * U(twice_middle / 2);
  return U(steps) * U(x) + ramp_sum + U(n - flat) * U(high);
}

// Pairs (query, key) that see each other: the multiply-adds a benchmark may count, for each unit of the head dim.
WINDOW_MATMUL_INLINE index_t pairs(const Band& band) {
  return static_cast<index_t>(sum_of_clamped(band.rows, band.shift + band.right + 1, band.cols) -
                              sum_of_clamped(band.rows, band.shift - band.left, band.cols));
}

}  // namespace window_matmul
