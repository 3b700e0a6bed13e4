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

  std::vector<Piece> pieces() const {
    std::vector<Piece> all;
    for (std::size_t s = 0; s + 1 < cu_q.size(); ++s) {
      const index_t rows = cu_q[s + 1] - cu_q[s], cols = cu_k[s + 1] - cu_k[s];
      all.push_back({0, cu_q[s], rows, cu_k[s], cols, cols - rows});
    }
    for (std::size_t b = 0; cu_q.empty() && static_cast<index_t>(b) < batch; ++b) {
      const index_t length = key_lengths.empty() ? keys : key_lengths[b];
      const index_t shift = query_offsets.empty() ? window.query_offset.value_or(length - queries) : query_offsets[b];
      all.push_back({static_cast<index_t>(b), 0, queries, 0, length, shift});
    }
    return all;
  }
};

inline std::string text(const AttentionCase& c) {
  const auto number = [](auto n) { return std::to_string(n); };
  std::string s = std::string(name_of(c.dtype)) + " B=" + number(c.batch) + " H=" + number(c.heads) + " Hkv=" + number(c.kv_heads) +
                  " Lq=" + number(c.queries) + " Lk=" + number(c.keys) + " D=" + number(c.dim) + " Dv=" + number(c.value_dim) +
                  " window=(" + number(c.window.left) + "," + number(c.window.right) + ") dilation " + text(c.window.dilation);
  if (c.window.query_offset) s += " query_offset=" + number(*c.window.query_offset);
  if (c.scale) s += " scale=" + number(*c.scale);
  if (c.softcap > 0) s += " softcap=" + number(c.softcap);
  if (c.dropout_p > 0) s += " dropout_p=" + number(c.dropout_p) + (c.elsewhere > 0 ? " elsewhere " + number(c.elsewhere) : std::string());
  if (c.bias_rank > 0) s += " bias of rank " + number(c.bias_rank) + (c.hides ? " with -inf" : "");
  if (c.sinks) s += " sinks" + (c.sinks_from != 0 ? " from " + number(c.sinks_from) : std::string());
  if (c.float_extras) s += " f32 extras";
  if (c.wide_out) s += " wide out";
  if (c.rounds_weights) s += " rounded weights";
  if (c.narrows_weights) s += " narrow weights";
  if (c.splits_factors) s += " split factors";
  if (c.key_mask) s += " key_mask";
  if (c.global_mask) s += " global_mask";
  if (c.global_tokens > 0) s += " global_tokens=" + number(c.global_tokens);
  if (!c.cu_q.empty()) s += " cu_q " + text(c.cu_q) + " cu_k " + text(c.cu_k);
  if (!c.key_lengths.empty()) s += " key_lengths " + text(c.key_lengths);
  if (!c.query_offsets.empty()) s += " query_offsets " + text(c.query_offsets);
  return s + (c.with_lse ? "" : " without lse") + " layouts " + number(c.layout_seed);
}

// Offsets of `count` sequences among `total` rows; empty ones among them. Half of them leave no row in front or behind.
inline Shape any_offsets(Random& random, index_t count, index_t total) {
  Shape cu = {0, total};
  if (random.one_in(2)) cu = {random.up_to(total), random.up_to(total)};
  while (static_cast<index_t>(cu.size()) <= count) cu.push_back(random.up_to(total));
  std::sort(cu.begin(), cu.end());
  return cu;
}

// One way to use each option; those that exclude each other replace each other.
struct AttentionOption {
  const char* name;
  void (*use)(AttentionCase&, Random&);
};
inline const std::vector<AttentionOption>& attention_options() {
  using C = AttentionCase;
  using R = Random;
  static const std::vector<AttentionOption> all = {
      {"plain", [](C&, R&) {}},
      {"causal", [](C& c, R&) { c.window.right = 0; }},
      {"unbounded_left", [](C& c, R&) { c.window.left = kUnbounded; }},
      {"unbounded_right", [](C& c, R&) { c.window.right = std::numeric_limits<index_t>::max(); }},
      {"dilation", [](C& c, R& r) { c.window.dilation = {2 + r.up_to(2)}; }},
      {"dilation_per_head",
       [](C& c, R& r) {
         c.window.dilation.clear();
         for (index_t h = 0; h < c.heads; ++h) c.window.dilation.push_back(1 + r.up_to(3));
       }},
      {"query_offset", [](C& c, R& r) { c.window.query_offset = r.up_to(c.keys + 6) - 4; }},
      {"scale", [](C& c, R& r) { c.scale = r.between(-2, 2); }},
      {"softcap", [](C& c, R& r) { c.softcap = r.between(0.3, 3); }},
      {"key_mask", [](C& c, R&) { c.key_mask = true; }},
      {"bias_per_slot", [](C& c, R& r) { c.bias_rank = 2, c.hides = r.one_in(2); }},
      {"bias_full", [](C& c, R& r) { c.bias_rank = 4, c.hides = r.one_in(2); }},
      {"sinks", [](C& c, R&) { c.sinks = true; }},
      {"low_sinks", [](C& c, R&) { c.sinks = true, c.sinks_from = -25; }},
      {"float_extras", [](C& c, R&) { c.float_extras = true; }},
      {"global_tokens", [](C& c, R& r) { c.global_tokens = 1 + r.up_to(2), c.global_mask = false; }},
      {"global_tokens_symmetric", [](C& c, R& r) { c.global_tokens = 1 + r.up_to(2), c.global_mask = false, c.keys = c.queries; }},
      {"global_mask", [](C& c, R&) { c.global_mask = true, c.global_tokens = 0; }},
      {"global_mask_symmetric", [](C& c, R&) { c.global_mask = true, c.global_tokens = 0, c.keys = c.queries; }},
      {"dropout", [](C& c, R& r) { c.dropout_p = r.one_in(8) ? 1 : r.between(0.1, 0.7); }},
      {"dropout_elsewhere", [](C& c, R& r) { c.dropout_p = r.between(0.1, 0.7), c.elsewhere = 1 + r.up_to(30); }},
      {"wide_out", [](C& c, R&) { c.wide_out = true; }},
      {"without_lse", [](C& c, R&) { c.with_lse = false; }},
      {"packed", [](C& c, R&) { c.cu_q = {0}; }},  // settled below: they need the final sizes
      {"key_lengths", [](C& c, R&) { c.key_lengths = {0}; }},  // likewise
      {"query_offsets", [](C& c, R&) { c.query_offsets = {0}; }},
      {"grouped_heads", [](C& c, R&) { c.heads = c.kv_heads * 2; }},
  };
  return all;
}

// A number for each entry, where it is used; some that align all queries with all keys.
inline void draw_for_entries(AttentionCase& c, Random& random) {
  const auto draw = [&](Shape& of, auto number) {
    if (of.empty()) return;
    of.clear();
    for (index_t b = 0; b < c.batch; ++b) of.push_back(number());
  };
  draw(c.key_lengths, [&] { return random.one_in(3) ? std::min(c.queries, c.keys) : random.up_to(c.keys); });
  draw(c.query_offsets, [&] { return random.one_in(3) ? 0 : random.up_to(c.keys + 6) - 4; });
  if (!c.query_offsets.empty()) c.window.query_offset.reset();
}

// What must agree among the options of a case.
inline AttentionCase settled(AttentionCase c, Random& random) {
  if (!c.cu_q.empty()) {
    const index_t count = 1 + random.up_to(2);
    c.batch = 1, c.window.query_offset.reset(), c.key_lengths.clear(), c.query_offsets.clear();
    c.cu_q = any_offsets(random, count, c.queries);
    c.cu_k = c.keys == c.queries && random.one_in(2) ? c.cu_q : any_offsets(random, count, c.keys);
  }
  draw_for_entries(c, random);
  if (c.bias_rank > 0) c.window.left = std::min<index_t>(c.window.left, 5), c.window.right = std::min<index_t>(c.window.right, 5);
  if (c.window.dilation.size() > 1) c.window.dilation.resize(static_cast<std::size_t>(c.heads), 2);
  if (c.dim == 0 && !c.scale) c.scale = 0.5;
  return c;
}

// Up to `length` queries and keys.
inline AttentionCase any_attention(Random& random, index_t length, index_t dim) {
  AttentionCase c{.batch = 1 + random.up_to(1), .kv_heads = 1 + random.up_to(1)};
  c.heads = c.kv_heads * (1 + random.up_to(1));
  c.queries = random.up_to(length), c.keys = random.one_in(2) ? c.queries : random.up_to(length);
  c.dim = random.up_to(dim), c.value_dim = random.up_to(dim);
  c.window = {random.up_to(length / 2), random.up_to(length / 2)};
  c.dtype = random.pick(kDTypes);
  c.layout_seed = random.one_in(3) ? 0 : random.bits();
  return c;
}

inline AttentionCase any_attention_with_options(Random& random, index_t length, index_t dim, index_t options) {
  AttentionCase c = any_attention(random, length, dim);
  for (index_t n = 0; n < options; ++n) random.pick(attention_options()).use(c, random);
  return settled(c, random);
}

// Each option in some of them; tiles begin and end in many places.
inline std::vector<AttentionCase> attention_scenes(bool small) {
  const index_t n = small ? 1 : 4;
  AttentionCase plain{
      .batch = 2, .heads = 4, .kv_heads = 2, .queries = 30 * n, .keys = 30 * n, .dim = 8, .value_dim = 9, .window = {5 * n, 3 * n}};
  std::vector<AttentionCase> all(6, plain);
  all[1].window = {7 * n, 0, {1, 2, 3, 1}}, all[1].keys = 37 * n, all[1].dtype = DType::bf16, all[1].sinks = true;
  all[2].dtype = DType::f64, all[2].global_tokens = 3, all[2].bias_rank = 2, all[2].softcap = 2;
  all[3].dtype = DType::f16, all[3].key_mask = true, all[3].dropout_p = 0.3, all[3].window.left = kUnbounded;
  all[4].batch = 1, all[4].cu_q = {0, 11 * n, 11 * n, 29 * n}, all[4].cu_k = {2 * n, 9 * n, 13 * n, 30 * n}, all[4].bias_rank = 4;
  all[5].global_mask = true, all[5].heads = all[5].kv_heads = 1, all[5].batch = 1, all[5].window.dilation = {3};
  all.push_back(plain);
  all[6].key_lengths = {17 * n, 30 * n}, all[6].query_offsets = {4 * n, 0}, all[6].global_tokens = 2, all[6].window.left = kUnbounded;
  // Few queries, and keys for several items.
  AttentionCase few{.heads = 4, .kv_heads = 2, .queries = 3, .keys = 200 * n, .dim = 8, .value_dim = 9, .window = {kUnbounded, 0}};
  all.insert(all.end(), 4, few);
  all[7].sinks = all[7].key_mask = true, all[7].softcap = 2;
  all[8].queries = 1, all[8].window.left = 180 * n, all[8].bias_rank = 2, all[8].hides = true, all[8].global_tokens = 5;
  all[9].queries = 15, all[9].heads = 6, all[9].window.dilation = {2}, all[9].keys = 360 * n, all[9].dtype = DType::f64;
  all[10].heads = all[10].kv_heads = 1, all[10].queries = 16, all[10].window = {kUnbounded, kUnbounded}, all[10].dtype = DType::bf16;
  return all;
}

}  // namespace window_matmul::testing_tools
