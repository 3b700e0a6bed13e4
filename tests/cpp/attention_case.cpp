// tests/cpp/attention_case.cpp: problems of fused attention as text, their options one by one, and random ones.
#include "attention_case.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace window_matmul::testing_tools {
namespace {

// Offsets of `count` sequences among `total` rows; empty ones among them. Half of them leave no row in front or behind.
Shape any_offsets(Random& random, index_t count, index_t total) {
  Shape cu = {0, total};
  if (random.one_in(2)) cu = {random.up_to(total), random.up_to(total)};
  while (static_cast<index_t>(cu.size()) <= count) cu.push_back(random.up_to(total));
  std::sort(cu.begin(), cu.end());
  return cu;
}

// A number for each entry, where it is used; some that align all queries with all keys.
void draw_for_entries(AttentionCase& c, Random& random) {
  const auto draw = [&](Shape& of, auto number) {
    if (of.empty()) return;
    of.clear();
    for (index_t b = 0; b < c.batch; ++b) of.push_back(number());
  };
  draw(c.key_lengths, [&] { return random.one_in(3) ? std::min(c.queries, c.keys) : random.up_to(c.keys); });
  draw(c.query_offsets, [&] { return random.one_in(3) ? 0 : random.up_to(c.keys + 6) - 4; });
  if (!c.query_offsets.empty()) c.window.query_offset.reset();
}

}  // namespace

std::vector<Piece> AttentionCase::pieces() const {
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

std::string text(const AttentionCase& c) {
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

const std::vector<AttentionOption>& attention_options() {
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

AttentionCase settled(AttentionCase c, Random& random) {
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

AttentionCase any_attention(Random& random, index_t length, index_t dim) {
  AttentionCase c{.batch = 1 + random.up_to(1), .kv_heads = 1 + random.up_to(1)};
  c.heads = c.kv_heads * (1 + random.up_to(1));
  c.queries = random.up_to(length), c.keys = random.one_in(2) ? c.queries : random.up_to(length);
  c.dim = random.up_to(dim), c.value_dim = random.up_to(dim);
  c.window = {random.up_to(length / 2), random.up_to(length / 2)};
  c.dtype = random.pick(kDTypes);
  c.layout_seed = random.one_in(3) ? 0 : random.bits();
  return c;
}

AttentionCase any_attention_with_options(Random& random, index_t length, index_t dim, index_t options) {
  AttentionCase c = any_attention(random, length, dim);
  for (index_t n = 0; n < options; ++n) random.pick(attention_options()).use(c, random);
  return settled(c, random);
}

std::vector<AttentionCase> attention_scenes(bool small) {
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
