// src/cpu/attention/items.cpp: key/value heads, dilation parts and segments of queries, whatever the number of threads.
#include "cpu/attention/items.hpp"

namespace window_matmul::cpu {
namespace {

// Below so many items of a batch entry the queries are cut into segments: enough for the threads of most machines to come out even.
constexpr index_t kItemsWanted = 16;
// A segment has at least so many times the rows of a window: what two of them share is added once more.
constexpr index_t kWindowsOfASegment = 4;
// But so many items a batch entry has even if each reaches all keys: then their private sums are so many times d_k and d_v.
constexpr index_t kItemsNeeded = 4;
// Sequences are cut alike in any batch, so that it changes no bit. What that takes in private sums is held for some sequences at a time.
constexpr index_t kMostElements = index_t{1} << 20;

}  // namespace

BackwardItems::BackwardItems(const AttentionPlan& plan, index_t first_sequence) : plan_(plan), sequences_{first_sequence, first_sequence} {
  for (; sequences_.end < plan.sequences() && elements_ < kMostElements; ++sequences_.end)
    for (index_t kv_head = 0; kv_head < plan.problem().attention.kv_heads; ++kv_head) {
      first_.push_back(static_cast<index_t>(items_.size()));
      add_items(sequences_.end, kv_head);
    }
  first_.push_back(static_cast<index_t>(items_.size()));
}

void BackwardItems::add_items(index_t s, index_t kv_head) {
  const index_t first = kv_head * plan_.group();
  const bool alike = plan_.is_alike(kv_head);  // then the query heads have the same parts, and are taken together
  const index_t step = alike ? plan_.group() : 1;
  for (index_t h = 0; h < plan_.group(); h += step) add_parts({s, kv_head, 0, first + h, step, {}, {}, false}, !alike);
}

void BackwardItems::add_parts(Item item, bool all_shared) {
  const Problem& p = plan_.problem();
  const Band& band = plan_.sequence(item.sequence).band;
  const index_t dilation = p.dilation_of(item.first_head), parts = dilated_parts(band, dilation);
  const index_t items = p.attention.kv_heads * larger(parts, 1);  // without segments
  for (item.part = 0; item.part < parts; ++item.part) {
    item.walk = walk_of_part(band, dilation, item.part);
    const Band& of = item.walk.band;
    const index_t reach = smaller(of.width(), of.cols) + kMaxQueryLanes;
    const index_t cheap = smaller(ceil_div(kItemsWanted, items), of.rows / (kWindowsOfASegment * reach));
    const index_t count = larger(cheap, ceil_div(kItemsNeeded, items));
    for (const Segment& segment : segments_of(of, count, kMaxQueryLanes, all_shared)) {
      item.segment = segment;
      item.final_at_once = segment.rows.size() <= kFewQueries && item.num_heads == 1 && !plan_.globals(item.sequence).queries;
      const index_t held = item.final_at_once ? kBackwardChunk : reach + larger(2 * kMaxQueryLanes, reach / 4);
      capacity_ = larger(capacity_, smaller(held, of.cols + 2 * kMaxQueryLanes));
      add(item);
    }
  }
}

void BackwardItems::add(Item item) {
  const Problem& p = plan_.problem();
  const AttentionArgs& a = plan_.args();
  const bool keys = a.d_k.data != nullptr || a.d_v.data != nullptr, per_slot = p.attention.bias == AttentionOptions::Bias::per_slot;
  const GlobalTokens& globals = plan_.globals(item.sequence);
  const auto num_globals = static_cast<index_t>(globals.keys.size());
  const auto take = [&](index_t count) {
    const index_t taken = elements_;
    elements_ += round_up(count, kMaxLanes);
    return taken;
  };
  const index_t shared = item.segment.covered.size() - item.segment.exclusive.size();
  item.shared = take(shared * sums_width(p));
  item.global_keys = take(keys ? num_globals * sums_width(p) : 0);
  item.global_queries = take(globals.queries ? item.num_heads * num_globals * padded(p.dim) : 0);
  item.bias = take(a.d_bias.data != nullptr && per_slot ? item.num_heads * p.band.width() : 0);
  item.sinks = take(item.num_heads);
  item.end = elements_;
  items_.push_back(item);
}

}  // namespace window_matmul::cpu
