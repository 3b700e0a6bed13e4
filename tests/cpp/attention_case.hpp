// tests/cpp/attention_case.hpp: a problem of fused attention with its options, and random ones.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cases.hpp"
#include "window_matmul/attention.hpp"

namespace window_matmul::testing_tools {

struct Piece {  // a batch entry or a packed sequence: where its rows begin, and how many there are
  index_t batch, first_query, queries, first_key, keys, shift;
};

struct AttentionCase {
  index_t batch = 1, heads = 1, kv_heads = 1, queries = 0, keys = 0, dim = 1, value_dim = 1;
  Window window = {};
  DType dtype = DType::f32;
  std::optional<double> scale{};
  double softcap = 0, dropout_p = 0;
  int bias_rank = 0;  // 2: (H, W); 4: (B, H, Lq, W)
  bool hides = false;  // some of the bias is -inf
  bool sinks = false, float_extras = false;  // bias and sinks in f32
  double sinks_from = 0;  // added to the sinks: far below the scores
  bool key_mask = false, global_mask = false;
  index_t global_tokens = 0;
  Shape cu_q = {}, cu_k = {};
  bool rounds_weights = false;    // to two bf16, before they are multiplied: the row of the table does so
  bool narrows_weights = false;   // to one number of the dtype: likewise
  bool splits_factors = false;    // products of fp32 are three of TF32: likewise
  Shape key_lengths = {}, query_offsets = {};  // of each entry
  bool wide_out = false;          // out and its gradient in f32 beside halves
  index_t elsewhere = 0;          // dropout takes places from another sequence; 0: its own
  bool with_lse = true;           // asked for, and with a gradient
  std::uint64_t layout_seed = 0;  // of the tensors' layouts; 0: all dense

  bool unbounded() const { return window.left >= kUnbounded || window.right >= kUnbounded; }
  index_t width() const { return window.left + 1 + window.right; }
  index_t group() const { return heads / kv_heads; }
  index_t dilation_of(index_t head) const {
    if (window.dilation.empty()) return 1;
    return window.dilation[static_cast<std::size_t>(head) % window.dilation.size()];
  }
  DType extra_dtype() const { return float_extras ? DType::f32 : dtype; }
  DType out_dtype() const { return wide_out && size_of(dtype) == 2 ? DType::f32 : dtype; }
  double actual_scale() const { return scale ? *scale : 1 / std::sqrt(static_cast<double>(dim)); }

  // Some beside each other and some not, and none where they are.
  index_t dropout_sequence(index_t s) const { return elsewhere == 0 ? s : elsewhere + 3 * s; }
  index_t dropout_query(index_t b, index_t row) const { return elsewhere == 0 ? row : elsewhere + 5 * b + 2 * row; }
  index_t dropout_key(index_t row) const { return elsewhere == 0 ? row : elsewhere + row + row / 7 * 3; }

  std::vector<Piece> pieces() const;
};

std::string text(const AttentionCase& c);

// One way to use each option; those that exclude each other replace each other.
struct AttentionOption {
  const char* name;
  void (*use)(AttentionCase&, Random&);
};
const std::vector<AttentionOption>& attention_options();

// What must agree among the options of a case is made to.
AttentionCase settled(AttentionCase c, Random& random);

// Up to `length` queries and keys.
AttentionCase any_attention(Random& random, index_t length, index_t dim);
AttentionCase any_attention_with_options(Random& random, index_t length, index_t dim, index_t options);

// Each option in some of them; tiles begin and end in many places.
std::vector<AttentionCase> attention_scenes(bool small);

}  // namespace window_matmul::testing_tools
