// src/cuda/kernels/tile_load.cuh: a tile of a matrix on its way to shared memory, asynchronously where its alignment allows.
#pragma once

#include "cuda/kernels/launch.hpp"
#include "cuda/primitives/primitives.hpp"

namespace window_matmul::cuda {

// A tile lies in lines of 16-byte chunks. Chunk c of line l is kept at place c ^ (l % 8) of its group of eight, so that eight neighbouring
// lines (ldmatrix) and eight neighbouring chunks (copies) both fall on different banks.
template <int LineBytes>
WINDOW_MATMUL_DEVICE std::uint32_t chunk_offset(int line, int chunk) {
  static_assert(LineBytes % 128 == 0);
  return static_cast<std::uint32_t>(line * LineBytes + (((chunk & ~7) | ((chunk ^ line) & 7)) << 4));
}

// Of a lane: the address of one chunk of a tile that begins at a multiple of 128, and from it those of others: so many lines on, a multiple
// of 8, and so many chunks on, an even number where the first is 0 or 1. Constants take no instruction, but for the exclusive or.
template <int LineBytes>
struct LaneChunks {
  std::uint32_t first;

  WINDOW_MATMUL_DEVICE LaneChunks(std::uint32_t tile, int line, int chunk) : first(tile + chunk_offset<LineBytes>(line, chunk)) {}
  WINDOW_MATMUL_DEVICE std::uint32_t at(int lines, int chunks) const {
    return (first ^ static_cast<std::uint32_t>((chunks & 7) << 4)) + static_cast<std::uint32_t>(lines * LineBytes + ((chunks & ~7) << 4));
  }
};

// Element (line, i) of the source lies at address + line * line_stride + i * element_stride, in elements.
struct Source {
  std::uintptr_t address;
  index_t line_stride, element_stride;
};

WINDOW_MATMUL_DEVICE Source rows_of(const Operand& m, index_t row, index_t column, std::uintptr_t element) {
  return {address_of(m, row, column, element), m.row_stride, m.col_stride};
}
WINDOW_MATMUL_DEVICE Source columns_of(const Operand& m, index_t row, index_t column, std::uintptr_t element) {
  return {address_of(m, row, column, element), m.col_stride, m.row_stride};
}

// Of every line, for vectors of neighbouring elements; 1 where elements are no neighbours.
WINDOW_MATMUL_DEVICE std::uintptr_t alignment_of(const Source& source, std::uintptr_t element) {
  if (source.element_stride != 1) return 1;
  const std::uintptr_t bits = source.address | (std::uintptr_t(source.line_stride) * element) | 16;
  return bits & (~bits + 1);
}

// The elements [seen.begin, seen.end) of a chunk, one by one, zeros around them.
template <class E>
WINDOW_MATMUL_DEVICE Bytes16 gather(std::uintptr_t address, index_t stride, Range seen) {
  constexpr int kPerChunk = 16 / sizeof(E);
  const std::uintptr_t step = std::uintptr_t(stride) * sizeof(E);
  E elements[kPerChunk];
  WINDOW_MATMUL_UNROLL
  for (int e = 0; e < kPerChunk; ++e, address += step) {
    elements[e] = E{};
    if (seen.contains(e)) elements[e] = load_global<E>(address);
  }
  Bytes16 chunk;
  __builtin_memcpy(&chunk, elements, 16);
  return chunk;
}

// `seen`: the elements of the chunk that exist, from 0; nothing else is read, and zeros take its place.
template <class E>
WINDOW_MATMUL_DEVICE void load_chunk(std::uint32_t to, std::uintptr_t address, index_t stride, std::uintptr_t alignment, Range seen) {
  constexpr int kPerChunk = 16 / sizeof(E);
  if (seen.empty()) return store_shared(to, Bytes16{});
  const bool whole = seen.size() == kPerChunk;
  if (alignment == 16 && seen.begin == 0) return copy_async<16>(to, address, static_cast<int>(seen.end) * static_cast<int>(sizeof(E)));
  if (alignment == 8 && whole) {
    WINDOW_MATMUL_UNROLL
    for (std::uint32_t i = 0; i < 16; i += 8) copy_async<8>(to + i, address + i, 8);
  } else if (alignment == 4 && whole) {
    WINDOW_MATMUL_UNROLL
    for (std::uint32_t i = 0; i < 16; i += 4) copy_async<4>(to + i, address + i, 4);
  } else {
    store_shared(to, gather<E>(address, stride, seen));
  }
}

// Lines 0 .. Lines - 1, by all threads of the block. `seen(line)`: which of its elements exist, counted from the tile's first;
// `place(line)`: where it is kept.
template <class E, int Lines, int LineBytes, int Threads = kThreads, class Seen, class Place>
WINDOW_MATMUL_DEVICE void load_tile(std::uint32_t to, const Source& source, Seen&& seen, Place&& place) {
  constexpr int kPerChunk = 16 / sizeof(E), kChunks = LineBytes / 16;
  const std::uintptr_t alignment = alignment_of(source, sizeof(E));
  const bool lines_first = source.element_stride != 1;  // neighbours in memory to neighbouring threads
  WINDOW_MATMUL_NO_UNROLL
  for (int n = thread_index(); n < Lines * kChunks; n += Threads) {
    const int line = lines_first ? n % Lines : n / kChunks, chunk = lines_first ? n / Lines : n % kChunks;
    const index_t first = chunk * kPerChunk;
    const Range exists = Range(seen(line)).intersect({first, first + kPerChunk});
    const std::uintptr_t address = source.address + (std::uintptr_t(line) * std::uintptr_t(source.line_stride) +
                                                     std::uintptr_t(first) * std::uintptr_t(source.element_stride)) *
                                                        sizeof(E);
    load_chunk<E>(to + chunk_offset<LineBytes>(place(line), chunk), address, source.element_stride, alignment,
                  {exists.begin - first, exists.end - first});
  }
}

// The same of a tile that exists as a whole, in its own order, and may be copied by 16 bytes: then each copy costs little more than itself.
template <class E, int Lines, int LineBytes, int Threads = kThreads>
WINDOW_MATMUL_DEVICE void load_whole_tile(std::uint32_t to, const Source& source) {
  constexpr int kChunks = LineBytes / 16, kTurns = Lines * kChunks / Threads, kLinesOfTurn = Threads / kChunks;
  static_assert(kTurns * Threads == Lines * kChunks && kLinesOfTurn * kChunks == Threads);
  const int line = thread_index() / kChunks, chunk = thread_index() % kChunks;
  const std::uintptr_t step = std::uintptr_t(source.line_stride) * sizeof(E);
  std::uintptr_t from = source.address + std::uintptr_t(line) * step + static_cast<std::uintptr_t>(16 * chunk);
  WINDOW_MATMUL_UNROLL
  for (int turn = 0; turn < kTurns; ++turn, from += kLinesOfTurn * step)
    copy_async<16>(to + chunk_offset<LineBytes>(line + turn * kLinesOfTurn, chunk), from, 16);
}

}  // namespace window_matmul::cuda
