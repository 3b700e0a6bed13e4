// src/cpu/attention/attention.cpp: the forward pass: its items, in any order.
#include "cpu/attention/attention.hpp"

#include <atomic>

#include "cpu/attention/forward_items.hpp"
#include "cpu/scratch.hpp"

namespace window_matmul::cpu {
namespace {

// Rows of a work item: several blocks, so that what one reads is still near for the next; few enough to spread over threads.
constexpr index_t kItemRows = 2 * kMaxQueryLanes;

std::size_t scratch_bytes(const Problem& problem) {
  const index_t dim = padded(problem.dim), value_dim = padded(problem.attention.value_dim);
  const index_t elements = (kMaxQueryLanes + kForwardChunk) * (dim + value_dim + kMaxLanes) + kMaxQueryLanes * (kForwardChunk + 8);
  return static_cast<std::size_t>(elements * element_bytes(problem.dtype));
}

// Runs items. Of those with the same rows, the last one that is done merges what all of them left.
class Forward {
 public:
  Forward(AttentionKernel kernel, const AttentionPlan& plan, const ForwardItems& items)
      : kernel_(kernel),
        plan_(plan),
        items_(items),
        sums_(allocate(sums_bytes())),
        done_(static_cast<std::size_t>(items.sums_elements() > 0 ? items.size() : 0)) {}
  std::size_t sums_bytes() const { return static_cast<std::size_t>(items_.sums_elements() * element_bytes(plan_.problem().dtype)); }
  bool has_memory() const { return sums_ != nullptr; }

  void run(index_t i, void* scratch, index_t* multiply_adds) {
    const ForwardItem& item = items_[i];
    AttentionBlock block = plan_.block_of(item.sequence, item.head / plan_.group(), plan_.problem().dilation_of(item.head));
    block.rows = item.rows;
    block.scratch = scratch, block.multiply_adds = multiply_adds;
    item.num_heads > 0 ? run_few(&block, i) : run_many(&block, item);
  }

 private:
  void run_many(AttentionBlock* block, const ForwardItem& item) const {
    const AttentionHead head = plan_.head_of(item.sequence, item.head);
    const Band& band = plan_.sequence(item.sequence).band;
    const bool global = item.part == kGlobalPart;
    block->heads = &head;
    block->walk = global ? walk_of_globals(band, plan_.globals(item.sequence).keys) : walk_of_part(band, block->window.dilation, item.part);
    block->skips_global_queries = !global && plan_.globals(item.sequence).queries;
    if (!global) add_global_keys(block, item);
    kernel_(*block);
  }

  void run_few(AttentionBlock* block, index_t i) {
    const ForwardItem& item = items_[i];
    AttentionHead heads[kFewRows];
    for (index_t r = 0; r < item.rows.size(); ++r)
      heads[r] = plan_.head_of(item.sequence, item.head + (item.rows.begin + r) % item.num_heads);
    block->heads = heads, block->num_heads = item.rows.size();
    block->walk = walk_of_part(plan_.sequence(item.sequence).band, block->window.dilation, item.part);
    block->few = {item.num_heads, item.keys};
    if (item.split == item.splits - 1) add_global_keys(block, item);
    if (item.splits == 1) return kernel_(*block);
    const index_t each = elements_of_sums(item.rows.size(), block->value_dim);
    block->few.sums = sums_at(item.sums + item.split * each);
    kernel_(*block);
    if (++done_[static_cast<std::size_t>(i - item.split)] < item.splits) return;
    block->few.sums = sums_at(item.sums), block->few.merged = item.splits;
    kernel_(*block);
  }

  void add_global_keys(AttentionBlock* block, const ForwardItem& item) const {
    const std::vector<index_t>& keys = plan_.globals(item.sequence).keys;
    block->global_keys = keys.data(), block->num_global_keys = static_cast<index_t>(keys.size());
  }

  void* sums_at(index_t element) const { return sums_.get() + element * element_bytes(plan_.problem().dtype); }

  AttentionKernel kernel_;
  const AttentionPlan& plan_;
  const ForwardItems& items_;
  Memory sums_;
  std::vector<std::atomic<index_t>> done_;  // of the items with the same rows, at the place of the first
};

}  // namespace

Config configure_attention(const Problem&) { return {kItemRows, kForwardChunk}; }

Status run_attention(AttentionKernel kernel, const Problem& problem, const Config& config, const Args& args) {
  const AttentionPlan plan(problem, args.attention);
  const ForwardItems items(plan, config.block_rows);
  Forward forward(kernel, plan, items);
  if (!forward.has_memory()) return no_room(forward.sums_bytes());
  const auto run_item = [&](index_t item, void* scratch, index_t* multiply_adds) { forward.run(item, scratch, multiply_adds); };
  return run_items(args.executor, args.stats, items.size(), scratch_bytes(problem), run_item);
}

}  // namespace window_matmul::cpu
