// src/cpu/attention/forward_items.hpp: the forward items, cut by shapes alone.
//
// Blocks of query rows of a sequence, a head and a dilation part; of few queries, the rows of all heads that share keys, and some of the
// keys; and blocks of global queries.
#pragma once

#include <vector>

#include "cpu/attention/plan.hpp"

namespace window_matmul::cpu {

inline constexpr index_t kGlobalPart = -1;

struct ForwardItem {
  index_t sequence, head, part;  // part: kGlobalPart for global queries
  Range rows;
  // Few queries:
  index_t num_heads = 0;  // from `head` on; row r is query r / num_heads of the part, and of one of them
  Range keys{};           // of the walk
  index_t sums = -1, split = 0, splits = 1;  // of so many items with these rows it is this one; theirs are the sums from this element on
};

class ForwardItems {
 public:
  ForwardItems(const AttentionPlan& plan, index_t item_rows);

  index_t size() const { return static_cast<index_t>(items_.size()); }
  const ForwardItem& operator[](index_t i) const { return items_[static_cast<std::size_t>(i)]; }
  index_t sums_elements() const { return elements_; }

 private:
  void add_many(index_t s, index_t item_rows);
  void add_few(index_t s);
  void add_rows(ForwardItem item, const Band& band);

  const AttentionPlan& plan_;
  std::vector<ForwardItem> items_;
  index_t elements_ = 0;
};

}  // namespace window_matmul::cpu
