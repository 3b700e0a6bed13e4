// src/cpu/attention/forward_items.cpp: forward items, whatever the number of threads.
#include "cpu/attention/forward_items.hpp"

namespace window_matmul::cpu {
namespace {

// Few queries: an item has at least so many keys, and a row at most so many items. Their number follows from the band of a sequence alone,
// so that results are equal for every number of threads and in every batch.
constexpr index_t kSplitKeys = 512, kMaxSplits = 32;

bool has_few_queries(const AttentionPlan& plan, index_t s) { return plan.sequence(s).band.rows <= kFewQueries && !plan.globals(s).queries; }

}  // namespace

ForwardItems::ForwardItems(const AttentionPlan& plan, index_t item_rows) : plan_(plan) {
  for (index_t s = 0; s < plan.sequences(); ++s) has_few_queries(plan, s) ? add_few(s) : add_many(s, item_rows);
}

void ForwardItems::add_many(index_t s, index_t item_rows) {
  const Band& band = plan_.sequence(s).band;
  const auto add = [&](index_t head, index_t part, index_t rows) {
    for (index_t row = 0; row < rows; row += item_rows) items_.push_back({s, head, part, {row, smaller(row + item_rows, rows)}});
  };
  for (index_t head = 0; head < plan_.problem().heads; ++head) {
    const index_t dilation = plan_.problem().dilation_of(head);
    for (index_t part = 0; part < dilated_parts(band, dilation); ++part) add(head, part, dilated_part(band, dilation, part).band.rows);
    if (plan_.globals(s).queries) add(head, kGlobalPart, static_cast<index_t>(plan_.globals(s).keys.size()));
  }
}

void ForwardItems::add_few(index_t s) {
  const Problem& p = plan_.problem();
  const Band& band = plan_.sequence(s).band;
  for (index_t head = 0; head < p.heads;) {
    const index_t together = plan_.is_alike(head / plan_.group()) ? plan_.group() : 1, dilation = p.dilation_of(head);
    for (index_t part = 0; part < dilated_parts(band, dilation); ++part)
      add_rows({s, head, part, {}, together}, dilated_part(band, dilation, part).band);
    head += together;
  }
}

void ForwardItems::add_rows(ForwardItem item, const Band& band) {
  const index_t rows = band.rows * item.num_heads;
  for (index_t row = 0; row < rows; row += kFewRows) {
    item.rows = {row, smaller(row + kFewRows, rows)};
    const Range keys = band.keys_any({row / item.num_heads, (item.rows.end - 1) / item.num_heads + 1});
    const index_t wanted = clamp(keys.size() / kSplitKeys, 1, kMaxSplits);
    const index_t step = larger(round_up(ceil_div(keys.size(), wanted), kMaxLanes), 1);
    item.splits = larger(ceil_div(keys.size(), step), 1);
    item.sums = elements_;
    if (item.splits > 1) elements_ += item.splits * elements_of_sums(item.rows.size(), plan_.problem().attention.value_dim);
    for (item.split = 0; item.split < item.splits; ++item.split) {
      const index_t begin = keys.begin + item.split * step;
      item.keys = {begin, smaller(begin + step, keys.end)};
      items_.push_back(item);
    }
  }
}

}  // namespace window_matmul::cpu
