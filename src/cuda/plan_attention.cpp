// src/cuda/plan_attention.cpp: problems of fused attention to grids.
#include "cuda/plan_attention.hpp"
#include "cuda/kernels/attention/backward_shape.hpp"
#include "philox.hpp"
#include "scale.hpp"

namespace window_matmul::cuda {

int attention_head_dim(const Problem& p) { return padded_head_dim(larger(p.dim, p.attention.value_dim)); }

namespace {

constexpr index_t kMostRows = index_t{1} << 30;      // of a sequence: the kernels count columns in 32 bits
constexpr index_t kMostDilation = index_t{1} << 40;  // times the rows of a block it stays far from wrapping

bool refuse(std::string* why_not, std::string reason) {
  *why_not = std::move(reason);
  return false;
}

int line_of(const Problem& p) { return attention_head_dim(p) * static_cast<int>(size_of(p.dtype)); }

std::size_t shared_bytes_of(const Problem& p) {
  return p.op == Op::attention ? attention_shared(line_of(p)) : BackwardTiles{line_of(p), false}.shared_bytes();
}

bool has_globals(const AttentionOptions& a) { return a.global_mask || a.global_tokens > 0; }
// A factor that is not positive cannot wait for the softmax to be multiplied in.
bool asks_scores(const AttentionOptions& a) {
  return a.softcap > 0 || a.bias != AttentionOptions::Bias::none || a.key_mask || has_globals(a) || a.dropout_p > 0 || !(a.scale > 0);
}

}  // namespace

bool has_backward_options(const Problem& p) {
  return asks_scores(p.attention) || p.attention.wide_out || !has_kernel_without_options(attention_head_dim(p), size_of(p.dtype));
}

Strided strided(const TensorView& t) {
  if (t.data == nullptr) return {};
  const auto step = [&](int dim) { return dim < t.rank ? t.stride[dim] : 0; };
  return {reinterpret_cast<std::uintptr_t>(t.data), step(0), step(1), step(2), step(3)};
}
namespace {

Numbers numbers(const NumbersView& n) { return {reinterpret_cast<std::uintptr_t>(n.data), n.stride, n.wide}; }
TokenSet tokens(const MaskView& mask, index_t count) {
  return {reinterpret_cast<std::uintptr_t>(mask.data), mask.batch_stride, mask.key_stride, count};
}

void set_sequences(const Problem& p, const AttentionArgs& args, AttentionLaunch* launch) {
  const AttentionNumbers& there = args.there;
  launch->band = p.band;
  launch->keeps_sides = p.attention.bias != AttentionOptions::Bias::none;
  launch->packed = there.cu_q.data != nullptr;
  launch->sequences = launch->packed ? there.cu_q.count - 1 : p.batch;
  launch->cu_rows = numbers(there.cu_q), launch->cu_columns = numbers(there.cu_k);
  launch->key_lengths = numbers(there.key_lengths), launch->shifts = numbers(there.query_offsets);
  launch->aligns_last = p.attention.aligns_last;
}

void set_options(const Problem& p, const AttentionArgs& args, AttentionLaunch* launch) {
  const AttentionOptions& a = p.attention;
  launch->scale = a.scale, launch->softcap = a.softcap;
  launch->bias = strided(args.bias);
  if (a.sinks) launch->sinks = {reinterpret_cast<std::uintptr_t>(args.sinks.data), 0, args.sinks.stride[0], 0, 0};
  launch->bias_is_f32 = args.bias.dtype == DType::f32, launch->sinks_are_f32 = args.sinks.dtype == DType::f32;
  launch->wide_out = a.wide_out, launch->split_lse = a.split_lse;
  launch->key_mask = tokens(args.key_mask, 0), launch->globals = tokens(args.global_mask, a.global_tokens);
  if (a.dropout_p == 0) return;
  launch->gain = a.dropout_p < 1 ? 1 / (1 - a.dropout_p) : 0;
  launch->threshold = dropout_threshold(a.dropout_p);
  launch->seed = args.dropout_seed, launch->seed_there = numbers(args.there.dropout_seed);
  const auto address = [](const std::int64_t* places) { return reinterpret_cast<std::uintptr_t>(places); };
  launch->sequence_places = address(args.dropout_places.sequences);
  launch->query_places = address(args.dropout_places.queries), launch->key_places = address(args.dropout_places.keys);
}

}  // namespace

AttentionLaunch attention_launch_of(const Problem& p, const AttentionArgs& args) {
  AttentionLaunch launch;
  set_sequences(p, args, &launch);
  set_options(p, args, &launch);
  launch.dim = p.dim, launch.value_dim = p.attention.value_dim, launch.group = p.heads / p.attention.kv_heads;
  launch.all_heads = p.heads;
  launch.q = strided(args.q), launch.k = strided(args.k), launch.v = strided(args.v);
  launch.out = strided(args.out), launch.lse = strided(args.lse);
  return launch;
}

namespace {
// Few queries: so many parts of the keys. By the shapes of an entry alone, so that it has the same bits in any batch and on any GPU.
index_t splits_of(const Problem& p) {
  constexpr index_t kFewQueries = 16, kKeysOfPart = 512, kMostParts = 32;
  if (p.band.rows > kFewQueries || p.attention.packed_there) return 1;
  const index_t sides = smaller(p.band.left, p.band.cols) + smaller(p.band.right, p.band.cols) + p.band.rows;
  const index_t seen = p.attention.global_mask || p.attention.global_queries ? p.band.cols : smaller(p.band.cols, sides);
  return clamp(ceil_div(seen, kKeysOfPart), 1, kMostParts);
}

// A warp joins the parts of a row.
AttentionLaunch join_of(AttentionLaunch launch) {
  launch.kernel = AttentionKernel::join;
  launch.items = ceil_div(launch.sequences * launch.all_heads * launch.band.rows, kThreads / 32);
  return launch;
}

void set_items(AttentionLaunch& launch) {
  const index_t rows = launch.band.rows, parts = smaller(launch.dilation, rows);
  launch.items = blocks_of_head(launch, rows, attention_tiles(0).rows) * launch.heads * parts * launch.splits;
  if (!launch.packed) launch.items *= launch.sequences;
}

}  // namespace

bool supports_attention(const Problem& p, const Device& device, std::string* why_not) {
  const index_t most = most_head_dim(size_of(p.dtype));
  if (larger(p.dim, p.attention.value_dim) > most)
    return refuse(why_not, "takes head dims up to " + std::to_string(most) + " in " + name_of(p.dtype) + ": these are " +
                               std::to_string(p.dim) + " and " + std::to_string(p.attention.value_dim));
  if (p.op == Op::attention_backward && !supports_backward(p, why_not)) return false;
  if (const std::size_t bytes = shared_bytes_of(p); bytes > device.shared_bytes_per_block)
    return refuse(why_not, "head dims of " + std::to_string(attention_head_dim(p)) + " in " + name_of(p.dtype) + " take " +
                               std::to_string(bytes >> 10) + " KiB of shared memory a block: this GPU has " +
                               std::to_string(device.shared_bytes_per_block >> 10));
  if (is_extreme(p.attention.scale, p.attention.softcap))
    return refuse(why_not, "takes a scale of 0 or from 2^-40 to 2^40, and a softcap from 2^-100 to 2^100, which is at most 2^100 scales");
  if (larger(p.band.rows, p.band.cols) > kMostRows) return refuse(why_not, "takes up to 2^30 queries and keys");
  for (const index_t dilation : p.dilation)
    if (dilation > kMostDilation) return refuse(why_not, "takes a dilation of at most 2^40");
  return true;
}

Plan configure_attention(const Problem& p, const Device& device) {
  Plan plan{p.op, p.dtype};
  plan.max_blocks = most_blocks(device);
  if (p.dtype == DType::f32) plan.precision = p.precision;
  plan.head_dim = attention_head_dim(p);
  plan.options = p.op == Op::attention ? asks_scores(p.attention) || splits_of(p) > 1 || !has_forward_without_options(plan.head_dim)
                                       : has_backward_options(p);
  plan.shared_bytes = shared_bytes_of(p);
  return plan;
}

std::size_t attention_workspace(const Problem& p) {
  const index_t splits = splits_of(p), sum = p.dtype == DType::f64 ? 8 : 4;
  return splits == 1 ? 0 : static_cast<std::size_t>(p.batch * p.heads * p.band.rows * splits * (p.attention.value_dim + 2) * sum);
}

std::vector<AttentionLaunch> attention_launches_of(const Problem& p, const AttentionArgs& args, void* workspace) {
  if (p.batch == 0 || p.heads == 0 || p.band.rows == 0) return {};
  std::vector<AttentionLaunch> launches;
  AttentionLaunch launch = attention_launch_of(p, args);
  launch.splits = splits_of(p), launch.partial = reinterpret_cast<std::uintptr_t>(workspace);
  for (index_t head = 0; head < p.heads; head += launch.heads) {
    launch.dilation = p.dilation_of(head), launch.first_head = head, launch.heads = 1;
    while (head + launch.heads < p.heads && p.dilation_of(head + launch.heads) == launch.dilation) ++launch.heads;
    set_items(launch);
    launches.push_back(launch);
  }
  if (launch.splits > 1) launches.push_back(join_of(launch));
  return launches;
}

}  // namespace window_matmul::cuda
