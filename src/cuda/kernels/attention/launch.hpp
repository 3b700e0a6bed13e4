// src/cuda/kernels/attention/launch.hpp: what a grid of fused attention is told. Plain data: passed to the kernel by value.
//
// Who calls what, forward and backward alike:
//
//   plan_attention.cpp      Problem, Args -> AttentionLaunch: one for each run of neighbouring heads that have one dilation
//   attention/item.cuh      AttentionLaunch, number of an item -> AttentionItem: some rows of one dilation part of one sequence. What
//                           differs between sequences (cu_seqlens, key_lengths, offsets) is read there, on the device.
//   attention/product.cuh   products of a warp: 16 rows x the columns of a tile, sums in registers; 16 rows x the head dim
//   attention/scores.cuh    phases on the scores that a warp holds: scale and cap, bias, masks, dropout
//   attention/walk.cuh      which tiles of columns an item visits: those of the band, then those of global tokens
//   attention/forward.cuh   the forward kernel; join.cuh: where its keys were cut into parts; backward_*.cuh: the backward ones
//
// Rows are queries and columns keys; for a kernel that walks queries for each key (ByKeys) the other way round.
#pragma once

#include "cuda/kernels/launch.hpp"

namespace window_matmul::cuda {

// A tensor (batch, head, row, column), or one without columns; strides in elements. Address 0: not given, or not wanted.
struct Strided {
  std::uintptr_t address = 0;
  index_t batch = 0, head = 0, row = 0, column = 0;
};

// A list of int32 or int64 on the device; the values are the caller's, and are cut to what exists before they are used.
struct Numbers {
  std::uintptr_t address = 0;  // 0: none
  index_t stride = 1;
  bool wide = true;  // int64
};

// Some keys: those whose byte is set, or without bytes the first `count`.
struct TokenSet {
  std::uintptr_t bytes = 0;
  index_t batch = 0, stride = 1, count = 0;

  WINDOW_MATMUL_INLINE bool is_used() const { return bytes != 0 || count != 0; }
};

// Which kernel takes a launch.
// backward_keys: d_k, and d_v where the registers hold both sums; else backward_values has a launch of its own. backward_slots: parts of
// the gradient of a bias of (H, W), which slot_sums adds up.
enum class AttentionKernel : std::uint8_t {
  forward,
  join,
  backward_queries,
  backward_keys,
  backward_values,
  backward_slots,
  slot_sums,
  sink_sums
};

struct AttentionLaunch {
  AttentionKernel kernel = AttentionKernel::forward;
  Band band;                     // a batch: of each entry; packed sequences: all their rows and keys, and the sides
  index_t dilation = 1;
  index_t dim = 0, value_dim = 0;
  index_t sequences = 1;         // entries of the batch, or packed sequences
  bool packed = false;
  index_t first_head = 0, heads = 1, group = 1;  // query heads of this launch; query heads of a key/value head
  index_t all_heads = 1;         // of the tensors
  index_t splits = 1;            // decoding: the keys of a row are cut into so many items; backward_slots: the blocks of rows of a head
  index_t tiles = 1;             // backward_slots: that reach a slot in some row
  index_t items = 0;

  Numbers cu_rows, cu_columns;   // packed sequences; swapped for a kernel by keys
  Numbers key_lengths, shifts;   // a batch

  Strided q, k, v, out, lse;     // out and lse: written by the forward kernel, read by the backward ones
  Strided d_out, d_lse, d_q, d_k, d_v, d_bias, d_sinks;
  Strided bias, sinks;           // bias: (batch, head, query, slot), strides of 0 where it has no such dim; sinks: `head` alone
  Strided facts;                 // backward: four numbers of each query (backward_block.cuh), of the sums' type
  Strided sink_terms;            // backward: what each query adds to d_sinks, likewise
  bool bias_is_f32 = false, sinks_are_f32 = false;  // beside another dtype; else they have that of q
  bool wide_out = false;         // out and d_out in fp32 beside halves
  bool split_lse = false;
  bool aligns_last = false;      // beside key_lengths without shifts: the last query with the last key of its entry
  bool keeps_sides = false;      // they count slots of the bias

  double scale = 1;              // scores: scale q k
  double softcap = 0;
  TokenSet key_mask;             // of what may be seen; not used: everything
  TokenSet globals;
  double gain = 1;               // of a weight that dropout keeps
  std::uint64_t threshold = 0;   // its random words are at least this; 0: no dropout
  std::uint64_t seed = 0;
  Numbers seed_there;            // given: stands for the seed
  // Given: int64, where sequences, queries (of all entries) and keys stand for dropout (DropoutPlaces).
  std::uintptr_t sequence_places = 0, query_places = 0, key_places = 0;
  std::uintptr_t partial = 0;    // sums of each split, in the sums' type
};

// How many block numbers a head takes in a launch; for the plan too.
WINDOW_MATMUL_INLINE index_t blocks_of_head(const AttentionLaunch& launch, index_t rows, index_t block_rows) {
  if (launch.packed) return rows / (block_rows * launch.dilation) + launch.sequences + 2;
  return ceil_div(ceil_div(rows, launch.dilation), block_rows);
}

}  // namespace window_matmul::cuda
