// src/cpu/simd/concept.hpp: the vocabulary that an instruction set gives to the kernels. simd/scalar.hpp says what each word means.
#pragma once

#include <concepts>

#include "half.hpp"

namespace window_matmul::cpu {

template <class S>
concept Simd = requires(typename S::Scalar* p, const bf16* b, typename S::Vec v, typename S::Vec (&square)[S::kLanes], index_t n,
                        typename S::Words w, std::uint64_t* u) {
  // Lanes of a vector, and the register tile: kTileRows * kTileVecs sums, kTileVecs operands and a broadcast fit the registers.
  { S::kLanes + S::kTileRows + S::kTileVecs } -> std::convertible_to<index_t>;
  { S::zero() } -> std::same_as<typename S::Vec>;
  { S::splat(*p) } -> std::same_as<typename S::Vec>;
  { S::load(p) } -> std::same_as<typename S::Vec>;
  { S::store(p, v) };
  { S::in_register(v) } -> std::same_as<typename S::Vec>;  // v, which from here on is not loaded again from where it came from
  { S::store_first(p, v, n) };  // the first n lanes, 0 <= n < kLanes, are written and no others
  { S::fma(v, v, v) } -> std::same_as<typename S::Vec>;  // a * b + c
  { S::add(v, v) } -> std::same_as<typename S::Vec>;
  { S::sub(v, v) } -> std::same_as<typename S::Vec>;
  { S::mul(v, v) } -> std::same_as<typename S::Vec>;
  { S::div(v, v) } -> std::same_as<typename S::Vec>;
  { S::max(v, v) } -> std::same_as<typename S::Vec>;               // NaN if b is NaN
  { S::min(v, v) } -> std::same_as<typename S::Vec>;               // likewise
  { S::where_less(v, v, v, v) } -> std::same_as<typename S::Vec>;  // a < b ? c : d, lane by lane
  { S::shift_to_exponent(v) } -> std::same_as<typename S::Vec>;   // the bits shifted left by the mantissa's length
  { S::sum(v) } -> std::same_as<typename S::Scalar>;
  { S::highest(v) } -> std::same_as<typename S::Scalar>;
  { S::all_zero(v) } -> std::same_as<bool>;  // false where a lane is NaN
  { S::sums(square) } -> std::same_as<typename S::Vec>;  // lane i: the sum of square[i]
  { S::transpose(square) };

  // Random words: lanes of 64 bits, of which the low halves count.
  { S::kWordLanes } -> std::convertible_to<index_t>;
  { S::splat_words(*u) } -> std::same_as<typename S::Words>;
  { S::load_words(u) } -> std::same_as<typename S::Words>;
  { S::store_words(u, w) };
  { S::multiply_words(w, w) } -> std::same_as<typename S::Words>;  // the low halves; all 64 bits of the product
  { S::high_words(w) } -> std::same_as<typename S::Words>;         // the high halves, moved down
  { S::exclusive_or(w, w) } -> std::same_as<typename S::Words>;
};

// What only some instruction sets have, and what exp2 is built from where they do.
template <class S>
concept HasExponentWords = requires(typename S::Vec v) {
  { S::fraction(v) } -> std::same_as<typename S::Vec>;               // v minus the nearest integer; 0 of an infinity
  { S::times_power_of_two(v, v) } -> std::same_as<typename S::Vec>;  // a * 2^b for an integer b, or -inf
};

// Products of bf16 as they are, two steps at a time: in each lane of 32 bits a pair of them. Subnormal numbers are taken as zeros.
template <class S>
concept HasDotPairs = requires(const Pair* p, const bf16* b, typename S::Vec v) {
  { S::load(p) } -> std::same_as<typename S::Vec>;  // as they lie
  { S::load_pairs(b, b) } -> std::same_as<typename S::Vec>;  // as below
  { S::dot_pairs(v, v, v) } -> std::same_as<typename S::Vec>;  // a.even * b.even + (a.odd * b.odd + c), each sum rounded
};

// Two bf16 in each lane of 32 bits: what products of bf16 take. Subnormal numbers become zeros as they are rounded.
template <class S>
concept HasPairs = requires(const bf16* b, typename S::Vec v) {
  { S::load_pairs(b, b) } -> std::same_as<typename S::Vec>;  // lane i: elements i of two rows, the first one's in the low half
  { S::pairs(v, v) } -> std::same_as<typename S::Vec>;       // the same of two vectors, rounded
  { S::high_part(v) } -> std::same_as<typename S::Vec>;      // the bits of each lane that a bf16 has; of a NaN that is quiet, a NaN
  { S::halves(v, v) } -> std::same_as<typename S::Vec>;  // the lanes of one vector, then those of the other, rounded: a row in memory
};

// Tiles: eight registers of 16 rows of 64 bytes. A row of the sums is 16 floats.
template <class S>
concept HasTiles = HasPairs<S> && requires(void* p, index_t stride) {
  S::Tiles::configure();  // of this thread; before anything else
  S::Tiles::release();  // behind everything else: other libraries configure tiles too
  S::Tiles::template zero<0>();
  S::Tiles::template load<0>(p, stride);  // rows are `stride` bytes apart
  S::Tiles::template store<0>(p, stride);
  S::Tiles::template dot<0, 1, 2>();  // sums 0 (r, n) += sum of 32 products: row r of 1 with the pairs of column n of 2
};

}  // namespace window_matmul::cpu
