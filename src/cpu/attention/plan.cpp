// src/cpu/attention/plan.cpp: strides, positions and options as the kernels of attention take them.
#include "cpu/attention/plan.hpp"

#include <algorithm>
#include <cmath>

#include "cpu/scratch.hpp"
#include "dropout.hpp"
#include "half.hpp"
#include "scale.hpp"

namespace window_matmul::cpu {
namespace {

constexpr std::size_t kHeldBytes = std::size_t{1} << 20;  // so much may be held whatever else there is
static_assert(2 * sizeof(HeldRows) <= kZeroedScratch);

double element(const TensorView& t, index_t i) {
  const auto* at = static_cast<const std::byte*>(t.data) + i * t.stride[0] * static_cast<index_t>(size_of(t.dtype));
  switch (t.dtype) {
    case DType::f64:
      return *reinterpret_cast<const double*>(at);
    case DType::f32:
      return *reinterpret_cast<const float*>(at);
    case DType::bf16:
      return widen(*reinterpret_cast<const bf16*>(at));
    case DType::f16:
      return widen(*reinterpret_cast<const f16*>(at));
  }
  return 0;
}

}  // namespace

AttentionPlan::AttentionPlan(const Problem& problem, const AttentionArgs& args) : problem_(problem), args_(args) {
  const AttentionOptions& options = problem.attention;
  for (index_t s = 0; s < num_sequences(problem); ++s) sequences_.push_back(sequence_of(problem, s));
  if (!options.global_mask && options.global_tokens == 0) return;
  for (index_t s = 0; s < sequences(); ++s) {
    const index_t keys = sequence(s).keys.size();
    GlobalTokens globals{options.global_mask ? tokens_of(args.global_mask, s) : Tokens{nullptr, 0, smaller(options.global_tokens, keys)},
                         {},
                         has_global_queries(problem, sequence(s))};
    for (index_t key = 0; key < keys; ++key)
      if (globals.tokens.contains(key)) globals.keys.push_back(key);
    globals_.push_back(std::move(globals));
  }
}

bool AttentionPlan::is_alike(index_t kv_head) const {
  const index_t first = kv_head * group();
  for (index_t head = first + 1; head < first + group(); ++head)
    if (problem_.dilation_of(head) != problem_.dilation_of(first)) return false;
  return true;
}

Tokens AttentionPlan::tokens_of(const MaskView& mask, index_t s) const {
  const Sequence& of = sequence(s);
  return {mask.data + of.batch * mask.batch_stride + of.keys.begin * mask.key_stride, mask.key_stride, 0};
}

void AttentionPlan::set_scale(AttentionOptionsOfBlock* of) const {
  const AttentionOptions& options = problem_.attention;
  of->scale = options.scale, of->softcap = options.softcap;
  of->is_wide = is_extreme(options.scale, options.softcap), of->is_natural = of->is_wide || options.split_lse;
  of->d_score_factor = of->is_wide && options.scale != 0 ? std::sqrt(std::fabs(options.scale)) : 1;
  of->d_sum_factor = options.scale / of->d_score_factor;
}

AttentionOptionsOfBlock AttentionPlan::options_of(index_t s) const {
  const AttentionOptions& options = problem_.attention;
  AttentionOptionsOfBlock of;
  set_scale(&of);
  of.dropout_p = options.dropout_p;
  of.has_bias = options.bias != AttentionOptions::Bias::none, of.has_sinks = options.sinks;
  of.bias_is_f32 = args_.bias.dtype == DType::f32, of.out_is_f32 = options.wide_out, of.splits_lse = options.split_lse;
  of.has_key_mask = options.key_mask;
  if (options.key_mask) of.key_mask = tokens_of(args_.key_mask, s);
  return of;
}

Operand AttentionPlan::rows_of(const TensorView& t, index_t batch, index_t head, index_t first) const {
  if (t.data == nullptr) return {};
  const index_t offset = batch * t.stride[0] + head * t.stride[1] + first * t.stride[2];
  const index_t bytes = offset * static_cast<index_t>(size_of(t.dtype));
  return {reinterpret_cast<std::uintptr_t>(t.data) + static_cast<std::uintptr_t>(bytes), t.stride[2], t.rank > 3 ? t.stride[3] : 1};
}

// Where rows of k or v lie apart, or are halves: as many keys as a block of queries sees. Narrow windows, whose keys few blocks see, cost
// less where they lie (measured); wide ones would take more than a thread is to have.
void AttentionPlan::hold_rows(std::size_t bytes_besides) {
  const auto are_apart = [](const TensorView& t) { return t.stride[2] > t.shape[3] || (t.stride[3] != 1 && t.shape[3] > 1); };
  const bool gains = size_of(problem_.dtype) == 2 || are_apart(args_.k) || are_apart(args_.v);
  const index_t reach = smaller(problem_.band.width(), problem_.band.cols), keys = reach + kMaxQueryLanes;
  const index_t row = (padded(problem_.dim) + padded(problem_.attention.value_dim)) * element_bytes(problem_.dtype);
  const auto room = static_cast<index_t>(std::max(kHeldBytes, kKeptScratch - std::min(kKeptScratch, kZeroedScratch + bytes_besides)));
  held_keys_ = gains && reach > kMaxQueryLanes && held_slots(keys) <= room / larger(row, 1) ? keys : 0;
}

index_t AttentionPlan::held_bytes_of(index_t columns) const {
  return held_slots(held_keys_) * padded(columns) * element_bytes(problem_.dtype);
}

std::size_t AttentionPlan::held_bytes() const {
  return kZeroedScratch + static_cast<std::size_t>(held_bytes_of(problem_.dim) + held_bytes_of(problem_.attention.value_dim));
}

void AttentionPlan::give_scratch(void* scratch, AttentionBlock* block) const {
  auto* const rows = static_cast<HeldRows*>(scratch);
  std::byte* const copies = static_cast<std::byte*>(scratch) + kZeroedScratch;
  block->held_k = {rows, copies, held_keys_};
  block->held_v = {rows + 1, copies + held_bytes_of(problem_.dim), held_keys_};
  block->scratch = static_cast<std::byte*>(scratch) + held_bytes();
}

AttentionBlock AttentionPlan::block_of(index_t s, index_t kv_head, index_t dilation) const {
  const Sequence& of = sequence(s);
  const auto keys = [&](const TensorView& t) { return rows_of(t, of.batch, kv_head, of.keys.begin); };
  AttentionBlock block;
  block.window = {of.band, dilation};
  block.draws = dropout_draws(problem_, args_, s, of);
  block.dim = problem_.dim, block.value_dim = problem_.attention.value_dim;
  block.k = keys(args_.k), block.v = keys(args_.v), block.d_k = keys(args_.d_k), block.d_v = keys(args_.d_v);
  block.options = options_of(s);
  block.global_tokens = globals(s).tokens;
  return block;
}

AttentionHead AttentionPlan::head_of(index_t s, index_t head) const {
  const Sequence& of = sequence(s);
  const auto queries = [&](const TensorView& t) { return rows_of(t, of.batch, head, of.queries.begin); };
  AttentionHead view;
  view.index = head;
  view.q = queries(args_.q), view.out = queries(args_.out), view.lse = queries(args_.lse), view.bias = queries(args_.bias);
  if (problem_.attention.sinks) view.sink = element(args_.sinks, head);
  constexpr double log2e = 1.4426950408889634;
  view.sink_in_log2 = problem_.dtype == DType::f64 ? view.sink * log2e : static_cast<float>(view.sink) * static_cast<float>(log2e);
  view.d_out = queries(args_.d_out), view.d_lse = queries(args_.d_lse), view.d_q = queries(args_.d_q), view.d_bias = queries(args_.d_bias);
  return view;
}

AttentionGeometry walk_of_part(const Band& band, index_t dilation, index_t part) {
  const DilatedPart of = dilated_part(band, dilation, part);
  const bool single = of.band.rows <= 1 && of.band.cols <= 1;  // needs no step, which may be beyond any address
  return {of.band, of.first_row, of.first_col, single ? 1 : dilation, nullptr};
}

AttentionGeometry walk_of_globals(const Band& band, const std::vector<index_t>& queries) {
  const auto rows = static_cast<index_t>(queries.size());
  return {{rows, band.cols, rows + band.cols, rows + band.cols, 0}, 0, 0, 1, queries.data()};
}

}  // namespace window_matmul::cpu
