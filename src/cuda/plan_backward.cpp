// src/cuda/plan_backward.cpp: the gradients of fused attention to grids: d_q by a walk of keys, then d_k and d_v by one of queries.
#include "cuda/kernels/attention/backward_shape.hpp"
#include "cuda/plan_attention.hpp"

namespace window_matmul::cuda {
namespace {

bool refuse(std::string* why_not, const char* reason) {
  *why_not = reason;
  return false;
}

std::size_t size_of_sums(const Problem& p) { return p.dtype == DType::f64 ? 8 : 4; }
index_t group_of(const Problem& p) { return p.heads / p.attention.kv_heads; }

// `count` numbers for each query.
Strided of_queries(const Problem& p, std::uintptr_t address, index_t count) {
  return {address, times(times(p.heads, p.band.rows), count), times(p.band.rows, count), count, 1};
}
std::size_t bytes_of_queries(const Problem& p, index_t count) {
  return static_cast<std::size_t>(round_up(times(times(p.batch, p.heads), times(p.band.rows, count)), 4)) * size_of_sums(p);
}

// As a bias asks for; without options there are as many rows.
BackwardTiles tiles_of(const Problem& p) { return {attention_head_dim(p) * static_cast<int>(size_of(p.dtype))}; }
bool wants_slots(const Problem& p, const AttentionArgs& args) {
  return p.attention.bias == AttentionOptions::Bias::per_slot && args.d_bias.data != nullptr;
}
bool wants_sinks(const AttentionArgs& args) { return args.d_sinks.data != nullptr; }

// Blocks of rows of a head are cut into so many parts that a GPU is filled; whatever GPU it is, since sums are rounded part by part.
index_t splits_of_slots(const Problem& p) {
  constexpr index_t kEnough = 512;
  const index_t blocks = times(p.batch, ceil_div(p.band.rows, tiles_of(p).rows));
  return clamp(ceil_div(kEnough, times(p.heads, tiles_of(p).tiles_of_slots(p.band.width()))), 1, blocks);
}

struct Workspace {  // bytes from its beginning
  std::size_t sink_terms, partial, end;
};
Workspace workspace_of(const Problem& p, const AttentionArgs& args) {
  Workspace w{};
  w.sink_terms = bytes_of_queries(p, kFactsOfQuery);
  w.partial = w.sink_terms + (wants_sinks(args) ? bytes_of_queries(p, 1) : 0);
  w.end = w.partial;
  if (wants_slots(p, args))
    w.end += static_cast<std::size_t>(times(times(p.heads, tiles_of(p).tiles_of_slots(p.band.width())),
                                            times(splits_of_slots(p), tiles_of(p).slots_of_tile()))) *
             size_of_sums(p);
  return w;
}

AttentionLaunch launch_of(const Problem& p, const AttentionArgs& args, void* workspace) {
  AttentionLaunch launch = attention_launch_of(p, args);
  const auto address = reinterpret_cast<std::uintptr_t>(workspace);
  launch.d_out = strided(args.d_out), launch.d_lse = strided(args.d_lse);
  launch.d_q = strided(args.d_q), launch.d_k = strided(args.d_k), launch.d_v = strided(args.d_v);
  if (p.attention.bias == AttentionOptions::Bias::full) launch.d_bias = strided(args.d_bias);
  launch.facts = of_queries(p, address, kFactsOfQuery);
  if (wants_sinks(args)) {
    launch.sink_terms = of_queries(p, address + workspace_of(p, args).sink_terms, 1);
    launch.d_sinks = {reinterpret_cast<std::uintptr_t>(args.d_sinks.data), 0, args.d_sinks.stride[0], 0, 0};
  }
  return launch;
}

// Calls f(launch) for each run of neighbouring heads with one dilation, `step` at a time.
template <class F>
void for_each_run(const Problem& p, AttentionLaunch launch, index_t step, F&& f) {
  for (index_t head = 0; head < p.heads; head += launch.heads) {
    launch.dilation = p.dilation_of(head), launch.first_head = head, launch.heads = step;
    while (head + launch.heads < p.heads && p.dilation_of(head + launch.heads) == launch.dilation) launch.heads += step;
    f(launch);
  }
}

void set_items(AttentionLaunch& launch, index_t rows, index_t heads, int block_rows) {
  launch.items = blocks_of_head(launch, rows, block_rows) * heads * smaller(launch.dilation, rows);
  if (!launch.packed) launch.items *= launch.sequences;
}

}  // namespace

bool supports_backward(const Problem& p, std::string* why_not) {
  for (index_t head = 0; head < p.heads; ++head)
    if (p.dilation_of(head) != p.dilation_of(head / group_of(p) * group_of(p)))
      return refuse(why_not, "no CUDA kernel for the gradients of heads that share keys and differ in dilation");
  return true;
}

std::size_t backward_workspace(const Problem& p, const AttentionArgs& args) { return workspace_of(p, args).end; }

namespace {

// The gradients of what all queries of a head share.
template <class F>
void add_shared(const Problem& p, const AttentionArgs& args, AttentionLaunch all, void* workspace, F&& add) {
  const BackwardTiles tiles = tiles_of(p);
  if (wants_slots(p, args)) {
    all.d_bias = strided(args.d_bias), all.partial = reinterpret_cast<std::uintptr_t>(workspace) + workspace_of(p, args).partial;
    all.tiles = tiles.tiles_of_slots(p.band.width()), all.splits = splits_of_slots(p);
    if (p.band.rows == 0) all.tiles = 0;  // nothing to add up
    for_each_run(p, all, 1, [&](AttentionLaunch launch) {
      launch.items = times(times(launch.heads, launch.tiles), launch.splits);
      if (launch.items > 0) add(launch, AttentionKernel::backward_slots);
    });
    all.heads = p.heads, all.items = ceil_div(times(p.heads, p.band.width()), kThreads);
    add(all, AttentionKernel::slot_sums);
  }
  all.items = p.heads;
  if (wants_sinks(args)) add(all, AttentionKernel::sink_sums);
}

}  // namespace

std::vector<AttentionLaunch> backward_launches_of(const Problem& p, const AttentionArgs& args, void* workspace) {
  if (p.batch == 0 || p.heads == 0) return {};
  const BackwardTiles tiles = tiles_of(p);
  std::vector<AttentionLaunch> launches;
  const AttentionLaunch all = launch_of(p, args, workspace);
  const auto add = [&](AttentionLaunch launch, AttentionKernel kernel) {
    launch.kernel = kernel;
    launches.push_back(launch);
  };
  if (p.band.rows > 0)
    for_each_run(p, all, 1, [&](AttentionLaunch launch) {
      set_items(launch, p.band.rows, launch.heads, tiles.rows);
      add(launch, AttentionKernel::backward_queries);
    });
  if (p.band.cols > 0)
    for_each_run(p, all, group_of(p), [&](AttentionLaunch launch) {
      std::swap(launch.cu_rows, launch.cu_columns);
      set_items(launch, p.band.cols, launch.heads / launch.group, tiles.rows);
      add(launch, AttentionKernel::backward_keys);
      if (!holds_both_sums(attention_head_dim(p), size_of(p.dtype), has_backward_options(p))) add(launch, AttentionKernel::backward_values);
    });
  add_shared(p, args, all, workspace, add);
  return launches;
}

}  // namespace window_matmul::cuda
