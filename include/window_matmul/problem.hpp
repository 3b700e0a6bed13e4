// include/window_matmul/problem.hpp: WHAT is to be computed (Problem), HOW (Config) and WHERE (Args). Nothing else travels.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "window_matmul/band.hpp"
#include "window_matmul/executor.hpp"
#include "window_matmul/op.hpp"
#include "window_matmul/tensor.hpp"

namespace window_matmul {

struct DeviceInfo;

// What is asked of fused attention beyond the band; attention.hpp says what each option means.
struct AttentionOptions {
  enum class Bias : std::uint8_t { none, per_slot, full };  // (H, W) or (B, H, Lq, W)
  index_t kv_heads = 0, value_dim = 0;
  double scale = 1, softcap = 0, dropout_p = 0;
  Bias bias = Bias::none;
  bool key_mask = false, sinks = false, global_mask = false;
  bool wide_out = false;   // out and its gradient in f32 beside halves
  bool dropout_elsewhere = false;  // dropout draws at places of a larger call (DropoutPlaces)
  bool split_lse = false;  // forward: lse in two, the highest score and the log of the sum beside it
  index_t global_tokens = 0;     // at most Lk
  bool global_queries = false;   // the symmetric rule holds in some sequence: a global token's query sees every key
  std::vector<index_t> cu_q = {}, cu_k = {};  // packed sequences; empty: `batch` sequences of Lq queries
  std::vector<index_t> key_lengths = {}, shifts = {};  // of each of these; empty: those of the band
  bool packed_there = false;  // packed sequences, whose bounds a GPU alone knows
  bool aligns_last = false;  // key_lengths on a GPU, without offsets: the last query with the last key of its entry
  friend bool operator==(const AttentionOptions&, const AttentionOptions&) = default;
};

struct Problem {  // WHAT: holds no pointer; one line of text names it in logs, tests and benchmarks
  Op op = Op::band_out;
  DType dtype = DType::f32;
  Band band;                           // before dilation; rows = Lq, cols = Lk for every op
  std::vector<index_t> dilation = {1};  // one for all heads, or one a head
  index_t batch = 1, heads = 1;        // heads is the last leading dim, batch the product of those before it
  index_t dim = 0;                     // N; 0 for the softmax
  double fill = 0;                     // band_out: what slots without a key hold
  Precision precision = Precision::highest;
  AttentionOptions attention = {};     // for the attention ops

  index_t dilation_of(index_t head) const { return dilation.size() == 1 ? dilation[0] : dilation[static_cast<std::size_t>(head)]; }
  // The multiply-adds the definition asks for: in-band pairs over all heads times N; for attention times D + Dv, backward 3 D + 2 Dv.
  index_t multiply_adds() const;
  friend bool operator==(const Problem&, const Problem&) = default;
};
std::string to_string(const Problem& problem);

struct Config {  // HOW: a pure function of Problem and DeviceInfo
  index_t block_rows = 0;  // output rows of one work item
  index_t block_keys = 0;  // keys whose packed copy is held at a time
  friend bool operator==(const Config&, const Config&) = default;
};

struct RunStats {  // what the kernels did; for tests of complexity
  index_t work_items = 0;
  index_t multiply_adds = 0;  // those executed, edge waste included
};

// int32 or int64 numbers in the memory of the tensors' device.
struct NumbersView {
  const void* data = nullptr;
  bool wide = true;  // int64
  index_t count = 0, stride = 1;
};

// What else the attention ops read where the tensors are on a GPU: nothing is read back, so the kernels alone know it, and cut it to what
// exists.
struct AttentionNumbers {
  NumbersView cu_q, cu_k;  // one more than there are packed sequences
  NumbersView key_lengths, query_offsets;  // of each entry
  NumbersView dropout_seed;
  bool any_of_sequences() const { return cu_q.data != nullptr || key_lengths.data != nullptr || query_offsets.data != nullptr; }
};

struct MaskView {  // (B, Lk) bytes, one a key, nonzero means true; packed sequences: (1, total_k)
  const std::uint8_t* data = nullptr;
  index_t batch_stride = 0, key_stride = 1;
};

// Dropout draws by the place of a pair: where the sequences, queries and keys of a part of a larger call stand in that. Null: as here.
struct DropoutPlaces {
  const std::int64_t* sequences = nullptr;  // of sequence s
  const std::int64_t* queries = nullptr;    // of row i of batch entry b: [b * Lq + i]
  const std::int64_t* keys = nullptr;       // of row j, in all batch entries
};

// WHERE, for the attention ops. Views have the shapes that attention.hpp gives, (B, H, L, n) even for bias and d_bias, which are expanded
// with stride 0 where they are (H, W). What is not given or not wanted has no data.
struct AttentionArgs {
  TensorView q, k, v, bias, sinks;
  MaskView key_mask, global_mask;
  AttentionNumbers there;
  std::uint64_t dropout_seed = 0;
  DropoutPlaces dropout_places;
  TensorView out, lse;      // backward only reads them
  TensorView d_out, d_lse;  // backward
  TensorView d_q, d_k, d_v, d_bias, d_sinks;
};

// Memory of a GPU for the time of a call, from whoever calls; `take` may throw. Nothing where null: then what needs some is refused.
struct DeviceMemory {
  void* (*take)(void* context, std::size_t bytes) = nullptr;  // aligned to 16 bytes
  void* context = nullptr;
};

struct Args {  // WHERE
  TensorView x, y, out;  // as the table of Op says; leading dims (..., heads) equal, missing ones expanded with stride 0
  AttentionArgs attention;  // the attention ops use these instead
  Executor executor;
  RunStats* stats = nullptr;  // may be null
  const DeviceInfo* device = nullptr;  // that of the tensors
  void* stream = nullptr;              // of a GPU: a cudaStream_t of the current device; the call only enqueues
  DeviceMemory memory = {};            // likewise, ordered by the stream
};

// A batch entry, or a packed sequence: its rows of the tensors and the band over them, without dilation.
struct Sequence {
  index_t batch;        // entry of dim 0 of the tensors
  Range queries, keys;  // their rows there
  Band band;            // queries.size() x keys.size()
};
// The same pairs with sides no longer than any query can see, so that nothing computed from them wraps.
Band without_overhang(const Band& band);
index_t num_sequences(const Problem& problem);
Sequence sequence_of(const Problem& problem, index_t index);
// Whether the queries of global tokens see every key of this sequence.
bool has_global_queries(const Problem& problem, const Sequence& sequence);

}  // namespace window_matmul

template <>
struct std::hash<window_matmul::Problem> {
  std::size_t operator()(const window_matmul::Problem& problem) const noexcept;
};
