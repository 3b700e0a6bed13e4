// src/cpu/attention/attention.cpp: the forward pass: its items, in any order.
#include "cpu/attention/attention.hpp"

#include <algorithm>
#include <atomic>

#include "cpu/attention/forward_items.hpp"
#include "cpu/scratch.hpp"

namespace window_matmul::cpu {
namespace {

// Rows of a work item: several blocks, so that what one reads is still near for the next; few enough to spread over threads.
constexpr index_t kItemRows = 2 * kMaxQueryLanes;

// On tiles, keys of v are packed once an item, and those of its first window are in no other item's: longer items where there are many.
constexpr index_t kMaxPairItemRows = 8 * kMaxQueryLanes, kPairItemsWanted = 64;
constexpr index_t kHeldBytes = index_t{1} << 20;  // of packed keys: half the second level of cache. Wider windows pack them again

std::size_t scratch_bytes(const Problem& problem) {
  const index_t dim = padded(problem.dim), value_dim = padded(problem.attention.value_dim);
  const index_t elements = (kMaxQueryLanes + kForwardChunk) * (dim + value_dim + kMaxLanes) + kMaxQueryLanes * (kForwardChunk + 8);
  return static_cast<std::size_t>(elements * element_bytes(problem.dtype));
}

index_t bytes_of_step(const Problem& problem) { return 2 * kPairStep * padded(problem.attention.value_dim); }

std::size_t scratch_bytes_in_pairs(const Problem& problem, const Config& config) {
  const index_t dim = round_up(problem.dim, kPairStep), value_dim = round_up(problem.attention.value_dim, kPairStep);
  const index_t floats = kPairQueries * (dim / 2 + kPairChunk + value_dim + 3);
  const index_t halves = larger(kPairChunk, kPairQueries) * dim + kPairStep * value_dim;
  return static_cast<std::size_t>(4 * floats + 2 * halves + config.block_keys / kPairStep * bytes_of_step(problem));
}

// Runs items. Of those with the same rows, the last one that is done merges what all of them left.
class Forward {
 public:
  Forward(AttentionKernel kernel, const AttentionPlan& plan, const ForwardItems& items, const Config& config)
      : kernel_(kernel),
        plan_(plan),
        items_(items),
        held_steps_(config.block_keys / kPairStep),
        sums_(allocate(sums_bytes())),
        done_(static_cast<std::size_t>(items.sums_elements() > 0 ? items.size() : 0)) {}
  std::size_t sums_bytes() const { return static_cast<std::size_t>(items_.sums_elements() * element_bytes(plan_.problem().dtype)); }
  bool has_memory() const { return sums_ != nullptr; }

  void run(index_t i, void* scratch, index_t* multiply_adds) {
    const ForwardItem& item = items_[i];
    AttentionBlock block = plan_.block_of(item.sequence, item.head / plan_.group(), plan_.problem().dilation_of(item.head));
    block.rows = item.rows, block.held_steps = held_steps_;
    block.multiply_adds = multiply_adds;
    plan_.give_scratch(scratch, &block);
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
  index_t held_steps_;
  Memory sums_;
  std::vector<std::atomic<index_t>> done_;  // of the items with the same rows, at the place of the first
};

}  // namespace

Config configure_attention(const Problem&) { return {kItemRows, kForwardChunk}; }

Config configure_attention_in_pairs(const Problem& problem) {
  const index_t block = kItemRows, wanted = problem.heads * problem.batch * ceil_div(problem.band.rows, kPairItemsWanted);
  const index_t reach = smaller(problem.band.width(), problem.band.cols) + kPairQueries + kPairStep;
  const index_t fits = larger(kHeldBytes / larger(bytes_of_step(problem), 1), kPairChunk / kPairStep);
  return {clamp(wanted / block * block, block, kMaxPairItemRows),
          kPairStep * clamp(ceil_div(reach, kPairStep), kPairChunk / kPairStep, fits)};
}

Status run_attention(AttentionKernel kernel, const Problem& problem, const Config& config, const Args& args) {
  AttentionPlan plan(problem, args.attention);
  const std::size_t scratch_of_block = std::max(scratch_bytes(problem), scratch_bytes_in_pairs(problem, config));
  plan.hold_rows(scratch_of_block);
  const ForwardItems items(plan, config.block_rows);
  Forward forward(kernel, plan, items, config);
  if (!forward.has_memory()) return no_room(forward.sums_bytes());
  const auto run_item = [&](index_t item, void* scratch, index_t* multiply_adds) { forward.run(item, scratch, multiply_adds); };
  return run_items(args.executor, args.stats, items.size(), plan.held_bytes() + scratch_of_block, run_item);
}

}  // namespace window_matmul::cpu
