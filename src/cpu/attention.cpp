// src/cpu/attention.cpp: the forward items: blocks of query rows of a sequence, a head and a dilation part; and blocks of global queries.
#include "cpu/attention.hpp"

#include <atomic>
#include <string>

#include "cpu/attention_plan.hpp"
#include "cpu/scratch.hpp"

namespace window_matmul::cpu {
namespace {

// Rows of a work item: several blocks, so that what one reads is still near for the next; few enough to spread over threads.
constexpr index_t kItemRows = 2 * kMaxQueryLanes;

struct Item {
  index_t sequence, head, part;  // part: kGlobalPart for global queries
  Range rows;
};
constexpr index_t kGlobalPart = -1;
constexpr index_t kFoldedPart = -2;  // the one query of each head of a group; `head` is the key/value head

// Decoding: query heads that share keys are taken together, as queries that see the same. What belongs to a head or a slot is not folded.
bool folds_heads(const AttentionPlan& plan) {
  const Problem& p = plan.problem();
  return plan.group() > 1 && plan.group() <= kMaxQueryLanes && p.band.rows == 1 && p.attention.cu_q.empty() &&
         p.dilation == std::vector<index_t>{1} && p.attention.bias == AttentionOptions::Bias::none && p.attention.dropout_p == 0 &&
         !plan.has_globals();
}

std::vector<Item> items_of(const AttentionPlan& plan, index_t item_rows) {
  std::vector<Item> items;
  const auto add = [&](index_t s, index_t head, index_t part, index_t rows) {
    for (index_t row = 0; row < rows; row += item_rows) items.push_back({s, head, part, {row, smaller(row + item_rows, rows)}});
  };
  if (folds_heads(plan)) {
    for (index_t s = 0; s < plan.sequences(); ++s)
      for (index_t head = 0; head < plan.problem().attention.kv_heads; ++head) add(s, head, kFoldedPart, plan.group());
    return items;
  }
  for (index_t s = 0; s < plan.sequences(); ++s)
    for (index_t head = 0; head < plan.problem().heads; ++head) {
      const Band& band = plan.sequence(s).band;
      const index_t dilation = plan.problem().dilation_of(head);
      for (index_t part = 0; part < dilated_parts(band, dilation); ++part) add(s, head, part, dilated_part(band, dilation, part).band.rows);
      if (plan.globals(s).queries) add(s, head, kGlobalPart, static_cast<index_t>(plan.globals(s).keys.size()));
    }
  return items;
}

std::size_t scratch_bytes(const Problem& problem) {
  const index_t dim = padded(problem.dim), value_dim = padded(problem.attention.value_dim);
  const index_t elements =
      (kMaxQueryLanes + kForwardChunk + kFewQueries) * (dim + value_dim + kMaxLanes) + kMaxQueryLanes * (kForwardChunk + 8);
  return static_cast<std::size_t>(elements * (problem.dtype == DType::f64 ? 8 : 4));
}

void run_folded(AttentionKernel kernel, const AttentionPlan& plan, const Item& item, void* scratch, index_t* done) {
  AttentionHead heads[kMaxQueryLanes];
  for (index_t h = 0; h < plan.group(); ++h) heads[h] = plan.head_of(item.sequence, item.head * plan.group() + h);
  const AttentionArgs& args = plan.args();
  heads[0].q.row_stride = args.q.stride[1], heads[0].out.row_stride = args.out.stride[1], heads[0].lse.row_stride = args.lse.stride[1];
  AttentionBlock block = plan.block_of(item.sequence, item.head, 1);
  const Range keys = plan.sequence(item.sequence).band.keys(0);
  const index_t everything = plan.group() + keys.size();
  block.walk = {{plan.group(), keys.size(), everything, everything, 0}, 0, keys.begin};
  block.rows = item.rows, block.heads = heads, block.num_heads = plan.group(), block.rows_are_heads = true;
  block.scratch = scratch, block.multiply_adds = done;
  kernel(block);
}

void run_item(AttentionKernel kernel, const AttentionPlan& plan, const Item& item, void* scratch, index_t* done) {
  if (item.part == kFoldedPart) return run_folded(kernel, plan, item, scratch, done);
  const index_t dilation = plan.problem().dilation_of(item.head);
  const GlobalTokens& globals = plan.globals(item.sequence);
  const AttentionHead head = plan.head_of(item.sequence, item.head);
  AttentionBlock block = plan.block_of(item.sequence, item.head / plan.group(), dilation);
  const Band& band = plan.sequence(item.sequence).band;
  const bool global = item.part == kGlobalPart;
  block.walk = global ? walk_of_globals(band, globals.keys) : walk_of_part(band, dilation, item.part);
  block.rows = item.rows;
  block.heads = &head;
  block.skips_global_queries = !global && globals.queries;
  if (!global) block.global_keys = globals.keys.data(), block.num_global_keys = static_cast<index_t>(globals.keys.size());
  block.scratch = scratch, block.multiply_adds = done;
  kernel(block);
}

}  // namespace

Config configure_attention(const Problem&) { return {kItemRows, kForwardChunk}; }

Status run_attention(AttentionKernel kernel, const Problem& problem, const Config& config, const Args& args) {
  const AttentionPlan plan(problem, args.attention);
  const std::vector<Item> items = items_of(plan, config.block_rows);
  const std::size_t bytes = scratch_bytes(problem);
  std::atomic<index_t> multiply_adds{0};
  std::atomic<bool> no_memory{false};
  const auto count = static_cast<index_t>(items.size());
  args.executor.for_each_range(count, [&](index_t begin, index_t end) {
    void* scratch = thread_scratch(bytes);
    if (scratch == nullptr) return no_memory.store(true);
    index_t done = 0;
    for (index_t item = begin; item < end; ++item) run_item(kernel, plan, items[static_cast<std::size_t>(item)], scratch, &done);
    multiply_adds += done;
  });
  if (args.stats != nullptr) *args.stats = {count, multiply_adds};
  if (no_memory) return {StatusCode::out_of_memory, "no memory for " + std::to_string(bytes) + " bytes of scratch in each thread"};
  return {};
}

}  // namespace window_matmul::cpu
