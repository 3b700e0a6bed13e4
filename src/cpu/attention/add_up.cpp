// src/cpu/attention/add_up.cpp: what several backward items share, added up in the order of the items, rounded once and written.
#include <algorithm>

#include "cpu/attention/add_up.hpp"
#include "cpu/attention/items.hpp"
#include "half.hpp"

namespace window_matmul::cpu {
namespace {

// to(position, n) = factor * from[n]
template <class E, class T>
void store_row_of(const Operand& to, index_t position, const T* from, index_t count, T factor) {
  const auto bytes = static_cast<std::uintptr_t>(position * to.row_stride) * sizeof(E);
  E* const row = reinterpret_cast<E*>(to.address + bytes);
  for (index_t n = 0; n < count; ++n) row[n * to.col_stride] = narrow<E>(static_cast<decltype(widen(E{}))>(factor * from[n]));
}

template <class T>
void store_row(const Operand& to, DType dtype, index_t position, const T* from, index_t count, T factor) {
  switch (dtype) {
    case DType::f64:
      return store_row_of<double>(to, position, from, count, factor);
    case DType::f32:
      return store_row_of<float>(to, position, from, count, factor);
    case DType::bf16:
      return store_row_of<bf16>(to, position, from, count, factor);
    case DType::f16:
      return store_row_of<f16>(to, position, from, count, factor);
  }
}

struct Rest {  // keys that one thread adds up at a time
  index_t sequence, kv_head;
  Range keys;
};
constexpr index_t kKeysOfARest = 512;

template <class T>
class AddUp {
 public:
  explicit AddUp(const Run& run)
      : run_(run), p_(run.plan.problem()), a_(run.plan.args()), line_(static_cast<std::size_t>(sums_width(p_))) {}

  // d_k and d_v of the keys that no item wrote alone, and d_q of the global queries.
  void keys_and_global_queries(const Rest& rest) {
    const index_t s = rest.sequence, kv_head = rest.kv_head;
    const AttentionBlock block = run_.plan.block_of(s, kv_head, 1);
    for (index_t j = rest.keys.begin; j < rest.keys.end; ++j) key(block, s, kv_head, j);
    if (rest.keys.begin > 0 || !run_.plan.globals(s).queries || a_.d_q.data == nullptr) return;
    for (index_t h = 0; h < run_.plan.group(); ++h) global_queries(s, kv_head, kv_head * run_.plan.group() + h);
  }

  void bias_and_sink(index_t head) const {
    const index_t kv_head = head / run_.plan.group(), width = elements_of_totals(p_, a_) - 1;
    T* const total = reinterpret_cast<T*>(run_.totals) + head * elements_of_totals(p_, a_);
    for (index_t s = run_.items.sequences().begin; s < run_.items.sequences().end; ++s) {
      const Range items = run_.items.of_keys(s, kv_head);
      for (index_t i = items.begin; i < items.end; ++i) {
        const Item& item = run_.items[i];
        const index_t h = head - item.first_head;
        if (h < 0 || h >= item.num_heads) continue;
        for (index_t slot = 0; slot < width; ++slot) total[slot] += at(item.bias + h * width)[slot];
        total[width] += *at(item.sinks + h);
      }
    }
  }

 private:
  const T* at(index_t offset) const { return static_cast<const T*>(run_.at(offset)); }

  void add(index_t offset) {
    const T* from = at(offset);
    for (T& sum : line_) sum += *from++;
  }

  // The key of the item's walk at a position that the item covers, or -1.
  static index_t covered_key(const Item& item, index_t j) {
    const index_t offset = j - item.walk.first_key;
    if (offset < 0 || offset % item.walk.step != 0) return -1;
    return item.segment.covered.contains(offset / item.walk.step) ? offset / item.walk.step : -1;
  }

  void key(const AttentionBlock& block, index_t s, index_t kv_head, index_t j) {
    const Range items = run_.items.of_keys(s, kv_head);
    const bool global = run_.plan.globals(s).tokens.contains(j);
    for (index_t i = items.begin; i < items.end && !global; ++i)
      if (run_.items[i].segment.exclusive.contains(covered_key(run_.items[i], j))) return;
    std::fill(line_.begin(), line_.end(), T{0});
    for (index_t i = items.begin; i < items.end; ++i) {
      const Item& item = run_.items[i];
      const Range exclusive = item.segment.exclusive;
      const index_t c = covered_key(item, j);
      if (c < 0 || exclusive.contains(c)) continue;
      add(item.shared + (c - (c < exclusive.begin ? 0 : exclusive.size()) - item.segment.covered.begin) * sums_width(p_));
    }
    if (global) add_global(s, items, j);
    write(block, j);
  }

  void add_global(index_t s, Range items, index_t j) {
    const std::vector<index_t>& keys = run_.plan.globals(s).keys;
    const auto index = static_cast<index_t>(std::lower_bound(keys.begin(), keys.end(), j) - keys.begin());
    for (index_t i = items.begin; i < items.end; ++i) add(run_.items[i].global_keys + index * sums_width(p_));
  }

  void write(const AttentionBlock& block, index_t j) const {
    const T scale = static_cast<T>(block.options.d_sum_factor);
    const T *d_k = line_.data(), *d_v = d_k + padded(p_.dim);
    if (a_.d_k.data != nullptr) store_row(block.d_k, p_.dtype, j, d_k, p_.dim, scale);
    if (a_.d_v.data != nullptr) store_row(block.d_v, p_.dtype, j, d_v, p_.attention.value_dim, T{1});
  }

  void global_queries(index_t s, index_t kv_head, index_t head) {
    const Range items = run_.items.of_keys(s, kv_head);
    const AttentionHead view = run_.plan.head_of(s, head);
    const T scale = static_cast<T>(run_.plan.block_of(s, kv_head, 1).options.d_sum_factor);
    const std::vector<index_t>& queries = run_.plan.globals(s).keys;
    const auto count = static_cast<index_t>(queries.size());
    for (index_t g = 0; g < count; ++g) {
      std::fill(line_.begin(), line_.end(), T{0});
      for (index_t i = items.begin; i < items.end; ++i) {
        const Item& item = run_.items[i];
        const index_t h = head - item.first_head;
        if (h < 0 || h >= item.num_heads) continue;
        const T* from = at(item.global_queries + (h * count + g) * padded(p_.dim));
        for (index_t n = 0; n < p_.dim; ++n) line_[static_cast<std::size_t>(n)] += from[n];
      }
      store_row(view.d_q, p_.dtype, queries[static_cast<std::size_t>(g)], line_.data(), p_.dim, scale);
    }
  }

  const Run& run_;
  const Problem& p_;
  const AttentionArgs& a_;
  std::vector<T> line_;  // one row of sums
};

// Whether the items left anything of this sequence and key/value head to be added up.
bool has_rest(const Run& run, index_t s, index_t kv_head) {
  if (!run.plan.globals(s).keys.empty()) return true;
  const Range items = run.items.of_keys(s, kv_head);
  index_t written = 0;
  for (index_t i = items.begin; i < items.end; ++i) written += run.items[i].segment.exclusive.size();
  return written < run.plan.sequence(s).keys.size();
}

std::vector<Rest> rests_of(const Run& run) {
  std::vector<Rest> all;
  for (index_t s = run.items.sequences().begin; s < run.items.sequences().end; ++s)
    for (index_t kv_head = 0; kv_head < run.plan.problem().attention.kv_heads; ++kv_head) {
      const index_t keys = has_rest(run, s, kv_head) ? run.plan.sequence(s).keys.size() : 0;
      for (index_t j = 0; j < keys; j += kKeysOfARest) all.push_back({s, kv_head, {j, smaller(j + kKeysOfARest, keys)}});
    }
  return all;
}

template <class T>
void add_up_of_type(const Run& run, const Executor& executor) {
  const Problem& p = run.plan.problem();
  const AttentionArgs& a = run.plan.args();
  if (a.d_k.data != nullptr || a.d_v.data != nullptr || run.plan.has_globals()) {
    const std::vector<Rest> rests = rests_of(run);
    executor.for_each_range(static_cast<index_t>(rests.size()), [&](index_t begin, index_t end) {
      AddUp<T> sums(run);
      for (index_t i = begin; i < end; ++i) sums.keys_and_global_queries(rests[static_cast<std::size_t>(i)]);
    });
  }
  const AddUp<T> sums(run);
  for (index_t head = 0; head < p.heads; ++head) sums.bias_and_sink(head);
}

template <class T>
void store_totals_of_type(const AttentionPlan& plan, const T* totals) {
  const Problem& p = plan.problem();
  const AttentionArgs& a = plan.args();
  const index_t width = elements_of_totals(p, a) - 1;
  const Operand d_sinks{reinterpret_cast<std::uintptr_t>(a.d_sinks.data), a.d_sinks.stride[0], 1};
  for (index_t head = 0; head < p.heads; ++head, totals += width + 1) {
    if (width > 0) store_row(plan.rows_of(a.d_bias, 0, head, 0), a.d_bias.dtype, 0, totals, width, T{1});
    if (a.d_sinks.data != nullptr) store_row(d_sinks, a.d_sinks.dtype, head, totals + width, 1, T{1});
  }
}

}  // namespace

void add_up(const Run& run, const Executor& executor) {
  run.plan.problem().dtype == DType::f64 ? add_up_of_type<double>(run, executor) : add_up_of_type<float>(run, executor);
}

void store_totals(const AttentionPlan& plan, const std::byte* totals) {
  if (plan.problem().dtype == DType::f64)
    store_totals_of_type(plan, reinterpret_cast<const double*>(totals));
  else
    store_totals_of_type(plan, reinterpret_cast<const float*>(totals));
}

}  // namespace window_matmul::cpu
