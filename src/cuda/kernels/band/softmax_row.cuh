// src/cuda/kernels/band/softmax_row.cuh: a row of band storage in the registers of the threads that share it: loaded, summed up, stored.
//
// A row lies in chunks of 16 bytes, counted from an aligned address of the output: where W is odd each row begins at another place of its
// first chunk. Neighbouring threads take neighbouring chunks, each thread kChunks of them, which together are a piece of the row. Whole
// chunks move in vectors as wide as their alignment allows; the first and the last one of a row go element by element.
#pragma once

#include <type_traits>

#include "cuda/kernels/band/softmax_shape.hpp"
#include "cuda/kernels/store_run.cuh"

namespace window_matmul::cuda {

template <class E, int Lanes, int Chunks>
struct SoftmaxRow {
  using Sum = std::conditional_t<sizeof(E) == 8, double, float>;
  static constexpr int kPerChunk = 16 / sizeof(E), kChunks = Chunks;
  static constexpr int kPiece = Lanes * kChunks * kPerChunk;  // elements
  using Values = Sum[kChunks][kPerChunk];

  const Item& item;
  const index_t row;
  const Range slots = item.rows.contains(row) ? item.band.slots(row) : Range{};  // those with a key
  const Range all = {0, item.rows.contains(row) ? item.band.width() : 0};
  const index_t phase = item.out.col_stride == 1 ? index_t(address_of(item.out, row, 0, sizeof(E)) % 16 / sizeof(E)) : 0;

  WINDOW_MATMUL_DEVICE index_t pieces() const { return ceil_div(phase + all.end, kPiece); }
  // Chunks of a thread that exist in some row of this length.
  WINDOW_MATMUL_DEVICE int rounds() const { return int(smaller(ceil_div(phase + all.end, Lanes * kPerChunk), kChunks)); }

  // Chunks as they lie in memory; slots without a key become zeros, whatever lies there.
  WINDOW_MATMUL_DEVICE void load(Bytes16 (&chunks)[kChunks], const Operand& from, index_t piece) const {
    const Part seen = part_of(slots, piece);
    const std::uintptr_t first = address_of(from, row, piece * kPiece - phase, sizeof(E));
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < kChunks; ++n) {
      const Part mine = seen.from(first_of(n));
      const index_t stride = stride_of(from);
      chunks[n] = Bytes16{};
      if (mine.begin < mine.end) chunks[n] = load_chunk_of_row(first + offset_of(n, stride), stride, mine);
    }
  }
  // Numbers; slots without a key become `rest`.
  WINDOW_MATMUL_DEVICE void load(Values& values, const Operand& from, index_t piece, Sum rest) const {
    Bytes16 chunks[kChunks];
    load(chunks, from, piece);
    const Part seen = part_of(slots, piece);
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < kChunks; ++n) {
      const Part mine = seen.from(first_of(n));
      WINDOW_MATMUL_UNROLL
      for (int e = 0; e < kPerChunk; ++e) values[n][e] = mine.is_whole() || mine.contains(e) ? element_of(chunks[n], e) : rest;
    }
  }
  WINDOW_MATMUL_DEVICE static Sum element_of(const Bytes16& chunk, int e) {
    if constexpr (sizeof(E) == 2) {
      return unpack<E>(chunk.word[e / 2], e % 2);
    } else {
      E elements[kPerChunk];
      __builtin_memcpy(elements, &chunk, 16);
      return elements[e];
    }
  }

  // f(n, e) for element e of chunk n; zeros where there is no key.
  template <class F>
  WINDOW_MATMUL_DEVICE void store(index_t piece, F&& f) const {
    const Part exists = part_of(all, piece), seen = part_of(slots, piece);
    const std::uintptr_t first = address_of(item.out, row, piece * kPiece - phase, sizeof(E));
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < kChunks; ++n) {
      const Part mine = exists.from(first_of(n)), of_keys = seen.from(first_of(n));
      if (mine.begin >= mine.end) continue;
      Sum results[kPerChunk];
      WINDOW_MATMUL_UNROLL
      for (int e = 0; e < kPerChunk; ++e) results[e] = of_keys.is_whole() || of_keys.contains(e) ? f(n, e) : Sum{0};
      const index_t stride = stride_of(item.out);
      const std::uintptr_t address = first + offset_of(n, stride);
      store_run(address, stride, alignment_of({address, 0, stride}, sizeof(E)), {mine.begin, mine.end}, Rounded<E>(results));
    }
  }

 private:
  struct Part {  // of a piece or a chunk, from its first element. In 32 bits: this is done for each chunk.
    int begin, end;

    WINDOW_MATMUL_DEVICE Part from(int first) const {
      const int b = begin - first, e = end - first;
      return {b < 0 ? 0 : b, e > kPerChunk ? kPerChunk : e};
    }
    WINDOW_MATMUL_DEVICE bool is_whole() const { return begin == 0 && end == kPerChunk; }
    WINDOW_MATMUL_DEVICE bool contains(int e) const { return begin <= e && e < end; }
  };

  WINDOW_MATMUL_DEVICE Part part_of(const Range& r, index_t piece) const {
    const index_t first = piece * kPiece - phase;
    return {int(clamp(r.begin - first, 0, kPiece)), int(clamp(r.end - first, 0, kPiece))};
  }
  WINDOW_MATMUL_DEVICE static int first_of(int n) { return (n * Lanes + thread_index() % Lanes) * kPerChunk; }
  // Multiples of a stride, one for each element of each chunk, would all be kept from row to row: more than there are registers.
  WINDOW_MATMUL_DEVICE static index_t stride_of(const Operand& m) {
    index_t stride = m.col_stride;
    forget(stride);
    return stride;
  }
  WINDOW_MATMUL_DEVICE static std::uintptr_t offset_of(int n, index_t stride) {
    return std::uintptr_t(first_of(n)) * std::uintptr_t(stride) * sizeof(E);
  }
  WINDOW_MATMUL_DEVICE static Bytes16 load_chunk_of_row(std::uintptr_t address, index_t stride, const Part& seen) {
    if (stride == 1 && seen.is_whole()) {
      if (address % 16 == 0) return load_global<Bytes16>(address);
      if (address % 8 == 0) return load_as<std::uint64_t>(address);
      if (address % 4 == 0) return load_as<std::uint32_t>(address);
    }
    return gather<E>(address, stride, {seen.begin, seen.end});
  }
  template <class Vector>
  WINDOW_MATMUL_DEVICE static Bytes16 load_as(std::uintptr_t address) {
    Vector vectors[16 / sizeof(Vector)];
    WINDOW_MATMUL_UNROLL
    for (std::uintptr_t i = 0; i < 16 / sizeof(Vector); ++i) vectors[i] = load_global<Vector>(address + i * sizeof(Vector));
    Bytes16 chunk;
    __builtin_memcpy(&chunk, vectors, 16);
    return chunk;
  }
};

// Numbers of all the threads that share a row, combined by f. `turn` alternates between two places in shared memory: whoever is late in
// reading one finds it untouched, since nobody writes it again before everybody has come to the barrier of the other.
template <int Lanes, class Sum, class F>
WINDOW_MATMUL_DEVICE Sum combine(Sum mine, std::uint32_t& turn, F&& f) {
  WINDOW_MATMUL_UNROLL
  for (int mask = (Lanes < kWarp ? Lanes : kWarp) / 2; mask > 0; mask /= 2) mine = f(mine, shuffle_xor(mine, mask));
  if constexpr (Lanes > kWarp) {
    constexpr std::uint32_t kWarps = kThreads / kWarp, kBytes = sizeof(Sum);
    static_assert(Lanes == kThreads);
    const std::uint32_t place = turn * kWarps * kBytes, warp = static_cast<std::uint32_t>(thread_index() / kWarp);
    if (thread_index() % kWarp == 0) store_shared(place + warp * kBytes, mine);
    sync_threads();
    mine = load_shared<Sum>(place);
    WINDOW_MATMUL_UNROLL
    for (std::uint32_t w = 1; w < kWarps; ++w) mine = f(mine, load_shared<Sum>(place + w * kBytes));
    turn ^= 1;
  }
  return mine;
}

}  // namespace window_matmul::cuda
