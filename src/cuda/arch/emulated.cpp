// src/cuda/arch/emulated.cpp: launching a plan's kernel in the emulation.
#include "cuda/arch/emulated.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/arch/emulate.hpp"
#include "cuda/kernels/elements.hpp"
#include "task.hpp"

namespace window_matmul::cuda::emulation {

namespace {

void add_numbers(const NumbersView& n, const char* name, GlobalMemory& global) {
  const std::size_t bytes = n.wide ? 8 : 4;
  if (n.data != nullptr && n.count > 0)
    global.add(reinterpret_cast<std::uintptr_t>(n.data), (static_cast<std::size_t>((n.count - 1) * n.stride) + 1) * bytes, false, name);
}

void add_mask(const MaskView& mask, const Problem& problem, const char* name, GlobalMemory& global) {
  if (mask.data == nullptr || problem.band.cols == 0) return;
  const index_t last = (problem.batch - 1) * mask.batch_stride + (problem.band.cols - 1) * mask.key_stride;
  global.add(reinterpret_cast<std::uintptr_t>(mask.data), static_cast<std::size_t>(last + 1), false, name);
}

void add_places(const Problem& problem, const AttentionArgs& a, GlobalMemory& global) {
  const index_t sequences = a.there.cu_q.data != nullptr ? a.there.cu_q.count - 1 : problem.batch;
  const DropoutPlaces& places = a.dropout_places;
  for (const auto& [list, count] :
       {std::pair{places.sequences, sequences}, {places.queries, problem.batch * problem.band.rows}, {places.keys, problem.band.cols}})
    if (list != nullptr && count > 0)
      global.add(reinterpret_cast<std::uintptr_t>(list), static_cast<std::size_t>(count) * sizeof(std::int64_t), false, "dropout_places");
}

void add_inputs(const Problem& problem, const AttentionArgs& a, GlobalMemory& global) {
  for (const auto& [tensor, name] :
       {std::pair{&a.q, "q"}, {&a.k, "k"}, {&a.v, "v"}, {&a.bias, "bias"}, {&a.sinks, "sinks"}, {&a.d_out, "d_out"}, {&a.d_lse, "d_lse"}})
    if (tensor->data != nullptr) global.add(*tensor, false, name);
  add_mask(a.key_mask, problem, "key_mask", global), add_mask(a.global_mask, problem, "global_mask", global);
  const AttentionNumbers& n = a.there;
  for (const auto& [numbers, name] : {std::pair{&n.cu_q, "cu_q"},
                                      {&n.cu_k, "cu_k"},
                                      {&n.key_lengths, "key_lengths"},
                                      {&n.query_offsets, "query_offsets"},
                                      {&n.dropout_seed, "dropout_seed"}})
    add_numbers(*numbers, name, global);
  add_places(problem, a, global);
}

// What one kernel writes the next may read: each sees the memory in its own way.
Report run_attention(const Problem& problem, const Plan& plan, const AttentionArgs& args, const Run& run) {
  Report report;
  const std::size_t bytes = attention_workspace(problem);
  std::vector<double> workspace(bytes / sizeof(double) + 1, std::nan(""));
  const std::vector<AttentionLaunch> launches = attention_launches_of(problem, args, workspace.data());
  std::int64_t sectors = 0;
  for (std::size_t first = 0, next = 0; first < launches.size(); first = next) {
    const AttentionKernel kernel = launches[first].kernel;
    GlobalMemory global(report);
    add_inputs(problem, args, global);
    const bool is_last = launches.back().kernel == kernel;
    if (bytes > 0) global.add(reinterpret_cast<std::uintptr_t>(workspace.data()), bytes, !is_last, "workspace");
    for (const auto& [tensor, name] : {std::pair{&args.out, "out"}, {&args.lse, "lse"}})
      if (is_last && tensor->data != nullptr) global.add(*tensor, true, name);
    for (next = first; next < launches.size() && launches[next].kernel == kernel; ++next) {
      const AttentionLaunch& launch = launches[next];
      const index_t blocks = smaller(launch.items, run.max_blocks > 0 ? run.max_blocks : plan.max_blocks);
      with_element(plan, [&]<class E>() { emulate_attention<E>(plan, launch, blocks, global, report, {run.seed, run.count_traffic}); });
    }
    sectors += global.distinct_sectors();
  }
  report.sectors_distinct = sectors;
  return report;
}

void add_gradients(const AttentionArgs& a, AttentionKernel kernel, GlobalMemory& global) {
  using enum AttentionKernel;
  const auto add = [&](const TensorView& tensor, const char* name, std::initializer_list<AttentionKernel> by) {
    if (tensor.data != nullptr && std::find(by.begin(), by.end(), kernel) != by.end()) global.add(tensor, true, name);
  };
  add(a.d_q, "d_q", {backward_queries}), add(a.d_k, "d_k", {backward_keys}), add(a.d_v, "d_v", {backward_keys, backward_values});
  add(a.d_bias, "d_bias", {backward_queries, slot_sums}), add(a.d_sinks, "d_sinks", {sink_sums});
}

// What one kernel writes others read: each sees the memory in its own way.
Report run_backward(const Problem& problem, const Plan& plan, const AttentionArgs& args, const Run& run) {
  Report report;
  std::int64_t sectors = 0;
  const std::size_t bytes = backward_workspace(problem, args);
  std::vector<double> workspace(bytes / sizeof(double) + 1, std::nan(""));
  const std::vector<AttentionLaunch> launches = backward_launches_of(problem, args, workspace.data());
  for (std::size_t first = 0, next = 0; first < launches.size(); first = next) {
    const AttentionKernel kernel = launches[first].kernel;
    GlobalMemory global(report);
    add_inputs(problem, args, global);
    for (const auto& [tensor, name] : {std::pair{&args.out, "out"}, {&args.lse, "lse"}}) global.add(*tensor, false, name);
    const bool writes = kernel == AttentionKernel::backward_queries || kernel == AttentionKernel::backward_slots;
    const std::size_t facts = writes && kernel == AttentionKernel::backward_slots
                                  ? launches[first].partial - reinterpret_cast<std::uintptr_t>(workspace.data())
                                  : bytes;
    global.add(reinterpret_cast<std::uintptr_t>(workspace.data()), facts, kernel == AttentionKernel::backward_queries, "workspace");
    if (kernel == AttentionKernel::backward_slots) global.add(launches[first].partial, bytes - facts, true, "partial sums");
    add_gradients(args, kernel, global);
    for (next = first; next < launches.size() && launches[next].kernel == kernel; ++next) {
      const AttentionLaunch& launch = launches[next];
      const index_t blocks = smaller(launch.items, run.max_blocks > 0 ? run.max_blocks : plan.max_blocks);
      with_element(plan, [&]<class E>() { emulate_backward<E>(plan, launch, blocks, global, report, {run.seed, run.count_traffic}); });
    }
    sectors += global.distinct_sectors();
  }
  report.sectors_distinct = sectors;
  return report;
}

}  // namespace

Report run_emulated(const Problem& problem, const Plan& plan, const Args& args, const Run& run) {
  if (problem.op == Op::attention_backward) return run_backward(problem, plan, args.attention, run);
  if (problem.op == Op::attention) return run_attention(problem, plan, args.attention, run);
  Report report;
  GlobalMemory global(report);
  global.add(args.x, false, "x"), global.add(args.out, true, "out");
  if (has_second_operand(problem.op)) global.add(args.y, false, "y");
  for (const Launch& launch : launches_of(problem, args)) {
    const index_t blocks = smaller(launch.items, run.max_blocks > 0 ? run.max_blocks : plan.max_blocks);
    with_element(plan, [&]<class E>() { emulate<E>(plan, launch, blocks, global, report, {run.seed, run.count_traffic}); });
  }
  return report;
}

}  // namespace window_matmul::cuda::emulation
