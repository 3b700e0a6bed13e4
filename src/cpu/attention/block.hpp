// src/cpu/attention/block.hpp: what the dispatcher and the kernels of fused attention agree on. Plain data: included by files of every ISA.
#pragma once

#include "cpu/block.hpp"
#include "philox.hpp"

namespace window_matmul::cpu {

struct Tokens {  // some positions of a sequence: those whose byte is set, or without bytes the first `count`
  const std::uint8_t* bytes = nullptr;
  index_t stride = 0, count = 0;

  WINDOW_MATMUL_INLINE bool contains(index_t position) const { return bytes != nullptr ? bytes[position * stride] != 0 : position < count; }
};

// Operands are seen in (position in the sequence, n); lse and its gradient have the sums' type, bias and its gradient may have it.
struct AttentionHead {
  index_t index = 0;  // of the query head
  Operand q, out, lse, bias;
  double sink = 0, sink_in_log2 = 0;  // the second in units of log 2 as scores are: rounded to the sums' type
  Operand d_out, d_lse, d_q, d_bias;
  // Private sums of this item, of the sums' type: d_bias (W), d_sink (1), d_q of global queries [query][padded D]. Null: not wanted.
  void *d_bias_sums = nullptr, *d_sink_sum = nullptr, *d_q_sums = nullptr;
};

struct AttentionOptionsOfBlock {
  double scale = 1, softcap = 0, dropout_p = 0;
  // The scale in two, for gradients: what those of scores are multiplied with, and sums of d_q and d_k. The first is 1 but for extreme
  // scales.
  double d_score_factor = 1, d_sum_factor = 1;
  bool is_natural = false;  // scores are in natural units, not in those of log 2: else only where their size asks for it
  bool is_wide = false;  // products are taken in a wider type: scale or softcap are extreme. Likewise
  bool has_bias = false, bias_is_f32 = false, has_sinks = false;
  bool out_is_f32 = false, splits_lse = false;
  bool has_key_mask = false;
  Tokens key_mask;  // of what may be seen
};

// The queries and keys that an item walks: a dilation part of a sequence, or global queries with all keys.
struct AttentionGeometry {
  Band band;  // its queries x its keys
  index_t first_query = 0, first_key = 0, step = 1;  // positions of query row r and key c: first + index * step
  const index_t* query_list = nullptr;  // where given, the position of row r is query_list[r]

  WINDOW_MATMUL_INLINE index_t query(index_t row) const { return query_list != nullptr ? query_list[row] : first_query + row * step; }
  WINDOW_MATMUL_INLINE index_t key(index_t c) const { return first_key + c * step; }
};

// The window of the whole sequence, in positions.
struct SequenceWindow {
  Band band;  // before dilation
  index_t dilation = 1;

  // The slot of key j in the window of query i, or -1 where j is not in it.
  WINDOW_MATMUL_INLINE index_t slot(index_t i, index_t j) const {
    const index_t offset = j - i - band.shift;
    if (offset % dilation != 0) return -1;
    const index_t tap = offset / dilation;
    return -band.left <= tap && tap <= band.right ? tap + band.left : -1;
  }
  // A global key that the window of query i does not hold: is it seen all the same?
  WINDOW_MATMUL_INLINE bool sees_global(index_t i, index_t j) const { return (band.right > 0 || j <= i + band.shift) && slot(i, j) < 0; }
};

// Backward: where the sums of d_k and d_v of this item go. Keys are those of the walk; a row of sums holds d_k (padded D), then d_v.
struct KeySumsOfBlock {
  Range covered;  // what this item reaches, and what is left to it to write
  Range exclusive;  // of these, what no other item adds to: written to d_k and d_v here
  Range own;  // of these, where it adds the share of the global queries
  void* shared = nullptr;  // sums of the other covered keys: first those before the exclusive ones, then those behind
  void* global_sums = nullptr;  // of the global keys, which all items add to
  const index_t* global_queries = nullptr;
  index_t num_global_queries = 0;
  index_t capacity = 0;  // rows of sums that scratch holds
  bool final_at_once = false;  // the item is one block of one head: keys are finished chunk by chunk
};

// Forward, few queries: a row is a query of one head, and rows share the keys that they read. Where other items read the rest of the keys,
// this item's sums wait for theirs; whoever is last merges them, in the order of the keys.
struct FewRows {
  index_t heads = 0;  // that share keys and are taken together: row r is query r / heads of the walk. 0: rows are queries
  Range keys{0, kUnbounded};  // of the walk, those of this item
  void* sums = nullptr;  // where its sums stay, [elements_of_sums()] for each item of the same rows; null: nobody else reads keys
  index_t merged = 0;  // so many of these are merged and written. 0: keys are read
};

// The rows of k or of v that scratch holds a copy of, where those of the tensor lie apart or are halves. It outlives the item: the next one
// goes on.
struct HeldRows {
  std::uintptr_t address = 0;  // of the tensor's
  index_t first_key = 0, step = 0;
  Range keys{};  // of the walk
};
struct Held {
  HeldRows* rows = nullptr;
  void* data = nullptr;  // the copies, of the sums' type: [slot][padded columns]
  index_t keys = 0;  // the most that are held; 0: none are
};

struct AttentionBlock {
  AttentionGeometry walk;
  Range rows;  // of the walk, of this item
  SequenceWindow window;
  DropoutDraws draws;
  index_t dim = 0, value_dim = 0;
  const AttentionHead* heads = nullptr;  // query heads of one key/value head; of few queries, the head of each row
  index_t num_heads = 1;
  FewRows few;
  Operand k, v, d_k, d_v;
  AttentionOptionsOfBlock options;
  const index_t* global_keys = nullptr;  // positions, ascending
  index_t num_global_keys = 0;
  KeySumsOfBlock key_sums;
  bool skips_global_queries = false;  // other items hold them
  Tokens global_tokens;
  index_t held_steps = 0;  // products of bf16: steps of 32 keys whose packed copies are held at a time
  Held held_k, held_v;
  void* scratch = nullptr;
  index_t* multiply_adds = nullptr;  // counts those executed
};

// Sizes that scratch is laid out by: the most of any instruction set.
inline constexpr index_t kMaxQueryLanes = 96;  // query rows of a block
// Keys whose scores are held at a time: longer sums cost less to load and store, shorter ones stay in the first level of cache. Measured.
inline constexpr index_t kForwardChunk = 96, kBackwardChunk = 96;

WINDOW_MATMUL_INLINE index_t padded(index_t columns) { return round_up(columns, kMaxLanes); }

// The first slots of held rows are there twice, so that the keys of a chunk lie together.
inline constexpr index_t kHeldTwice = larger(kForwardChunk, kBackwardChunk);
WINDOW_MATMUL_INLINE index_t held_slots(index_t keys) { return keys == 0 ? 0 : keys + kHeldTwice; }

// The kernels of bf16 on tiles: queries of a block and keys of a chunk; and 32 keys to a step of a product.
inline constexpr index_t kPairQueries = 32, kPairChunk = 96, kPairStep = 32;
inline constexpr index_t kPairBackwardQueries = 64, kPairBackwardChunk = 64;

// Few queries: up to kFewQueries of a sequence, in items of up to kFewRows rows, of which kRowsAtOnce share their vectors; keys in chunks.
inline constexpr index_t kFewQueries = 16, kFewRows = 16, kRowsAtOnce = 4, kFewChunk = 64;
inline constexpr index_t kFewStats = kFewRows / kRowsAtOnce * kMaxLanes;  // room for a number of each row

// The sums of an item: of outputs, then the maxima and the sums of weights, and whether the maxima are in natural units.
WINDOW_MATMUL_INLINE index_t elements_of_sums(index_t rows, index_t value_dim) {
  return rows * padded(value_dim) + 2 * kFewStats + kMaxLanes;
}

}  // namespace window_matmul::cpu
