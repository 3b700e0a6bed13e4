// src/cpu/attention/items.hpp: the backward items, and the private sums of each in one array.
#pragma once

#include <vector>

#include "cpu/attention/plan.hpp"
#include "cpu/attention/segments.hpp"
#include "cpu/scratch.hpp"

namespace window_matmul::cpu {

struct Item {
  index_t sequence, kv_head, part;
  index_t first_head, num_heads;
  Segment segment;
  AttentionGeometry walk;
  bool final_at_once;  // no other query of the item adds to a key once its chunk is done
  // Offsets of its private sums, in elements; those of heads: num_heads times. It writes every row of `shared`, and adds to the others.
  index_t shared = 0, global_keys = 0, global_queries = 0, bias = 0, sinks = 0, end = 0;
};

inline index_t sums_width(const Problem& p) { return padded(p.dim) + padded(p.attention.value_dim); }

// Those of some sequences: from the first one on as many as there is memory for their private sums, at least one.
class BackwardItems {
 public:
  BackwardItems(const AttentionPlan& plan, index_t first_sequence);

  Range sequences() const { return sequences_; }

  index_t size() const { return static_cast<index_t>(items_.size()); }
  const Item& operator[](index_t i) const { return items_[static_cast<std::size_t>(i)]; }
  index_t sums_elements() const { return elements_; }
  index_t capacity() const { return capacity_; }  // rows of sums of the keys that an item holds at a time
  // Items that add to the keys of a sequence and a key/value head.
  Range of_keys(index_t s, index_t kv_head) const {
    const auto at = static_cast<std::size_t>((s - sequences_.begin) * plan_.problem().attention.kv_heads + kv_head);
    return {first_[at], first_[at + 1]};
  }

 private:
  void add_items(index_t s, index_t kv_head);
  void add_parts(Item item, bool all_shared);
  void add(Item item);

  const AttentionPlan& plan_;
  Range sequences_;
  std::vector<Item> items_;
  std::vector<index_t> first_;
  index_t elements_ = 0, capacity_ = 0;
};

// Everything a phase of some items needs.
struct Run {
  const AttentionPlan& plan;
  const BackwardItems& items;
  std::byte* sums;    // of sums_elements()
  std::byte* totals;  // over all sequences: of each query head d_bias (W), d_sink: elements_of_totals()

  void* at(index_t offset) const { return sums + offset * element_bytes(plan.problem().dtype); }
};

inline index_t elements_of_totals(const Problem& p, const AttentionArgs& a) {  // of a head
  return (a.d_bias.data != nullptr && p.attention.bias == AttentionOptions::Bias::per_slot ? p.band.width() : 0) + 1;
}

}  // namespace window_matmul::cpu
