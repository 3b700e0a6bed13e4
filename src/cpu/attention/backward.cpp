// src/cpu/attention/backward.cpp: the backward pass: its items, in any order, and then what they share.
#include <cstring>

#include "cpu/attention/add_up.hpp"
#include "cpu/attention/attention.hpp"
#include "cpu/attention/items.hpp"

namespace window_matmul::cpu {
namespace {

KeySumsOfBlock key_sums_of(const Run& run, const Item& item) {
  const GlobalTokens& globals = run.plan.globals(item.sequence);
  const AttentionArgs& a = run.plan.args();
  KeySumsOfBlock of;
  of.covered = item.segment.covered, of.exclusive = item.segment.exclusive, of.own = item.segment.own;
  of.shared = run.at(item.shared);
  if (!globals.keys.empty() && (a.d_k.data != nullptr || a.d_v.data != nullptr)) of.global_sums = run.at(item.global_keys);
  if (globals.queries) of.global_queries = globals.keys.data(), of.num_global_queries = static_cast<index_t>(globals.keys.size());
  of.capacity = run.items.capacity(), of.final_at_once = item.final_at_once;
  return of;
}

AttentionHead head_of(const Run& run, const Item& item, index_t h) {
  const Problem& p = run.plan.problem();
  const AttentionArgs& a = run.plan.args();
  AttentionHead head = run.plan.head_of(item.sequence, item.first_head + h);
  const auto num_globals = static_cast<index_t>(run.plan.globals(item.sequence).keys.size());
  if (run.plan.globals(item.sequence).queries && a.d_q.data != nullptr)
    head.d_q_sums = run.at(item.global_queries + h * num_globals * padded(p.dim));
  if (a.d_bias.data != nullptr && p.attention.bias == AttentionOptions::Bias::per_slot)
    head.d_bias = {}, head.d_bias_sums = run.at(item.bias + h * p.band.width());
  if (a.d_sinks.data != nullptr) head.d_sink_sum = run.at(item.sinks + h);
  return head;
}

void run_item(AttentionKernel kernel, const Run& run, const Item& item, void* scratch, index_t* multiply_adds) {
  const GlobalTokens& globals = run.plan.globals(item.sequence);
  AttentionBlock block = run.plan.block_of(item.sequence, item.kv_head, run.plan.problem().dilation_of(item.first_head));
  std::memset(run.at(item.global_keys), 0,
              static_cast<std::size_t>((item.end - item.global_keys) * element_bytes(run.plan.problem().dtype)));
  std::vector<AttentionHead> heads;
  for (index_t h = 0; h < item.num_heads; ++h) heads.push_back(head_of(run, item, h));
  block.walk = item.walk, block.rows = item.segment.rows;
  block.heads = heads.data(), block.num_heads = item.num_heads;
  block.global_keys = globals.keys.data(), block.num_global_keys = static_cast<index_t>(globals.keys.size());
  block.skips_global_queries = globals.queries;
  block.key_sums = key_sums_of(run, item);
  block.multiply_adds = multiply_adds;
  run.plan.give_scratch(scratch, &block);
  kernel(block);
}

std::size_t scratch_bytes(const Problem& p, index_t capacity) {
  const index_t dim = padded(p.dim), value_dim = padded(p.attention.value_dim), rows = kMaxQueryLanes;
  const index_t elements = (3 * rows + kBackwardChunk) * dim + (2 * rows + kBackwardChunk + 2) * value_dim + 3 * kBackwardChunk * rows +
                           6 * rows + 19 * kMaxLanes + (capacity + kBackwardChunk) * (dim + value_dim);
  return static_cast<std::size_t>(elements * element_bytes(p.dtype));
}

// What the kernels of bf16 on tiles need beside it; those in pairs need less.
std::size_t scratch_bytes_in_pairs(const Problem& p) {
  const index_t dim = padded(p.dim), value_dim = padded(p.attention.value_dim);
  const index_t steps = round_up(p.dim, kPairStep), value_steps = round_up(p.attention.value_dim, kPairStep);
  const index_t rows = kPairBackwardQueries, chunk = kPairBackwardChunk;
  const index_t elements = rows * (steps + value_steps + dim + value_dim) / 2 + 4 * chunk * rows + 6 * rows + 2 * value_dim +
                           chunk * dim / 2 + rows * dim + larger(chunk, rows) * larger(steps, value_steps) / 2 + 24 * kMaxLanes;
  return p.dtype == DType::bf16 ? static_cast<std::size_t>(elements * element_bytes(p.dtype)) : 0;
}

}  // namespace

Status run_attention_backward(AttentionKernel kernel, const Problem& problem, const Config&, const Args& args) {
  AttentionPlan plan(problem, args.attention);
  const index_t bytes = element_bytes(problem.dtype);
  const auto totals_bytes = static_cast<std::size_t>(problem.heads * elements_of_totals(problem, args.attention) * bytes);
  const Memory totals = allocate(totals_bytes);
  if (totals == nullptr) return no_room(totals_bytes);
  std::memset(totals.get(), 0, totals_bytes);
  for (index_t s = 0; s < plan.sequences();) {
    const BackwardItems items(plan, s);
    const auto sums_bytes = static_cast<std::size_t>(items.sums_elements() * bytes);
    const Memory sums = allocate(sums_bytes);
    if (sums == nullptr) return no_room(sums_bytes);
    const Run run{plan, items, sums.get(), totals.get()};
    const auto run_one = [&](index_t i, void* scratch, index_t* multiply_adds) { run_item(kernel, run, items[i], scratch, multiply_adds); };
    const std::size_t scratch_of_item = scratch_bytes(problem, items.capacity()) + scratch_bytes_in_pairs(problem);
    plan.hold_rows(scratch_of_item + sums_bytes);
    const Status status = run_items(args.executor, args.stats, items.size(), plan.held_bytes() + scratch_of_item, run_one);
    if (!status.ok()) return status;
    add_up(run, args.executor);
    s = items.sequences().end;
  }
  store_totals(plan, totals.get());
  return {};
}

}  // namespace window_matmul::cpu
