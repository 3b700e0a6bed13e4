// src/cpu/attention_backward.cpp: the backward items, their private sums, and the adding up of what several items share, in a fixed order.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <type_traits>

#include "cpu/attention.hpp"
#include "cpu/attention_plan.hpp"
#include "cpu/attention_segments.hpp"
#include "cpu/scratch.hpp"
#include "half.hpp"

namespace window_matmul::cpu {
namespace {

// Below so many items the queries are cut into segments: enough for the threads of most machines to come out even.
constexpr index_t kItemsWanted = 16;
// A segment has at least so many times the rows of a window: what two of them share is added once more.
constexpr index_t kWindowsOfASegment = 4;

struct Item {
  index_t sequence, kv_head, part;
  index_t first_head, num_heads;
  Segment segment;
  AttentionGeometry walk;
  // Offsets of its private sums, in elements; those of heads: num_heads times.
  index_t shared = 0, global_keys = 0, global_queries = 0, bias = 0, sinks = 0;
};

index_t element_bytes(const Problem& p) { return p.dtype == DType::f64 ? 8 : 4; }
index_t sums_width(const Problem& p) { return padded(p.dim) + padded(p.attention.value_dim); }

class BackwardItems {
 public:
  explicit BackwardItems(const AttentionPlan& plan) : plan_(plan) {
    for (index_t s = 0; s < plan.sequences(); ++s)
      for (index_t kv_head = 0; kv_head < plan.problem().attention.kv_heads; ++kv_head) {
        first_.push_back(static_cast<index_t>(items_.size()));
        add_items(s, kv_head);
      }
    first_.push_back(static_cast<index_t>(items_.size()));
  }

  index_t size() const { return static_cast<index_t>(items_.size()); }
  const Item& operator[](index_t i) const { return items_[static_cast<std::size_t>(i)]; }
  index_t sums_elements() const { return elements_; }
  index_t capacity() const { return capacity_; }  // rows of sums of the keys that an item holds at a time
  // Items that add to the keys of a sequence and a key/value head.
  Range of_keys(index_t s, index_t kv_head) const {
    const auto at = static_cast<std::size_t>(s * plan_.problem().attention.kv_heads + kv_head);
    return {first_[at], first_[at + 1]};
  }

 private:
  void add_items(index_t s, index_t kv_head) {
    const Problem& p = plan_.problem();
    const index_t first = kv_head * plan_.group();
    bool alike = true;  // then the query heads have the same parts, and are taken together
    for (index_t h = 1; h < plan_.group(); ++h) alike = alike && p.dilation_of(first + h) == p.dilation_of(first);
    const index_t step = alike ? plan_.group() : 1;
    for (index_t h = 0; h < plan_.group(); h += step) add_parts({s, kv_head, 0, first + h, step, {}, {}}, !alike);
  }

  void add_parts(Item item, bool all_shared) {
    const Problem& p = plan_.problem();
    const Band& band = plan_.sequence(item.sequence).band;
    const index_t dilation = p.dilation_of(item.first_head), parts = dilated_parts(band, dilation);
    const index_t items = plan_.sequences() * p.attention.kv_heads * larger(parts, 1);
    for (item.part = 0; item.part < parts; ++item.part) {
      item.walk = walk_of_part(band, dilation, item.part);
      const Band& of = item.walk.band;
      const index_t reach = smaller(of.width(), of.cols) + kMaxQueryLanes;
      const index_t count = smaller(ceil_div(kItemsWanted, items), of.rows / (kWindowsOfASegment * reach));
      for (const Segment& segment : segments_of(of, count, kMaxQueryLanes, all_shared)) {
        item.segment = segment;
        capacity_ = larger(capacity_, smaller(reach + larger(2 * kMaxQueryLanes, reach / 4), of.cols + 2 * kMaxQueryLanes));
        add(item);
      }
    }
  }

  void add(Item item) {
    const Problem& p = plan_.problem();
    const AttentionArgs& a = plan_.args();
    const bool keys = a.d_k.data != nullptr || a.d_v.data != nullptr, per_slot = p.attention.bias == AttentionOptions::Bias::per_slot;
    const GlobalTokens& globals = plan_.globals(item.sequence);
    const auto num_globals = static_cast<index_t>(globals.keys.size());
    const auto take = [&](index_t count) {
      const index_t taken = elements_;
      elements_ += round_up(count, kMaxLanes);
      return taken;
    };
    const index_t shared = item.segment.covered.size() - item.segment.exclusive.size();
    item.shared = take(shared * sums_width(p));
    item.global_keys = take(keys ? num_globals * sums_width(p) : 0);
    item.global_queries = take(globals.queries ? item.num_heads * num_globals * padded(p.dim) : 0);
    item.bias = take(a.d_bias.data != nullptr && per_slot ? item.num_heads * p.band.width() : 0);
    item.sinks = take(item.num_heads);
    items_.push_back(item);
  }

  const AttentionPlan& plan_;
  std::vector<Item> items_;
  std::vector<index_t> first_;
  index_t elements_ = 0, capacity_ = 0;
};

// Everything a phase needs.
struct Run {
  const AttentionPlan& plan;
  const BackwardItems& items;
  std::byte* sums;  // of sums_elements(), zeros at first

  void* at(index_t offset) const { return sums + offset * element_bytes(plan.problem()); }
};

// ---- the items ----------------------------------------------------------------------------------------------------------------------

KeySumsOfBlock key_sums_of(const Run& run, const Item& item) {
  const GlobalTokens& globals = run.plan.globals(item.sequence);
  const AttentionArgs& a = run.plan.args();
  KeySumsOfBlock of;
  of.covered = item.segment.covered, of.exclusive = item.segment.exclusive, of.own = item.segment.own;
  of.shared = run.at(item.shared);
  if (!globals.keys.empty() && (a.d_k.data != nullptr || a.d_v.data != nullptr)) of.global_sums = run.at(item.global_keys);
  if (globals.queries) of.global_queries = globals.keys.data(), of.num_global_queries = static_cast<index_t>(globals.keys.size());
  of.capacity = run.items.capacity();
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

void run_item(AttentionKernel kernel, const Run& run, const Item& item, std::vector<AttentionHead>* heads, void* scratch, index_t* done) {
  const GlobalTokens& globals = run.plan.globals(item.sequence);
  AttentionBlock block = run.plan.block_of(item.sequence, item.kv_head, run.plan.problem().dilation_of(item.first_head));
  heads->clear();
  for (index_t h = 0; h < item.num_heads; ++h) heads->push_back(head_of(run, item, h));
  block.walk = item.walk, block.rows = item.segment.rows;
  block.heads = heads->data(), block.num_heads = item.num_heads;
  block.global_keys = globals.keys.data(), block.num_global_keys = static_cast<index_t>(globals.keys.size());
  block.skips_global_queries = globals.queries;
  block.key_sums = key_sums_of(run, item);
  block.scratch = scratch, block.multiply_adds = done;
  kernel(block);
}

std::size_t scratch_bytes(const Problem& p, index_t capacity) {
  const index_t dim = padded(p.dim), value_dim = padded(p.attention.value_dim), rows = kMaxQueryLanes;
  const index_t elements = (3 * rows + kBackwardChunk) * dim + (2 * rows + kBackwardChunk + 2) * value_dim + 3 * kBackwardChunk * rows +
                           3 * rows + 16 * kMaxLanes + (capacity + kBackwardChunk) * (dim + value_dim);
  return static_cast<std::size_t>(elements * element_bytes(p));
}

// ---- adding up ----------------------------------------------------------------------------------------------------------------------

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

template <class T>
class AddUp {
 public:
  explicit AddUp(const Run& run)
      : run_(run), p_(run.plan.problem()), a_(run.plan.args()), line_(static_cast<std::size_t>(sums_width(p_))) {}

  // d_k and d_v of the keys that no item wrote alone, and d_q of the global queries.
  void keys_and_global_queries(index_t s, index_t kv_head) {
    const AttentionBlock block = run_.plan.block_of(s, kv_head, 1);
    for (index_t j = 0; j < run_.plan.sequence(s).keys.size(); ++j) key(block, s, kv_head, j);
    if (!run_.plan.globals(s).queries || a_.d_q.data == nullptr) return;
    for (index_t h = 0; h < run_.plan.group(); ++h) global_queries(s, kv_head, kv_head * run_.plan.group() + h);
  }

  void bias_and_sink(index_t head) {
    const index_t kv_head = head / run_.plan.group(), width = p_.band.width();
    if (p_.attention.bias == AttentionOptions::Bias::per_slot && a_.d_bias.data != nullptr) {
      std::vector<T> sums(static_cast<std::size_t>(width));
      for_each_item_of(kv_head, head, [&](const Item& item, index_t h) {
        const T* from = at(item.bias + h * width);
        for (T& sum : sums) sum += *from++;
      });
      store_row(run_.plan.rows_of(a_.d_bias, 0, head, 0), a_.d_bias.dtype, 0, sums.data(), width, T{1});
    }
    if (a_.d_sinks.data == nullptr) return;
    T sum = 0;
    for_each_item_of(kv_head, head, [&](const Item& item, index_t h) { sum += *at(item.sinks + h); });
    const Operand d_sinks{reinterpret_cast<std::uintptr_t>(a_.d_sinks.data), a_.d_sinks.stride[0], 1};
    store_row(d_sinks, a_.d_sinks.dtype, head, &sum, 1, T{1});
  }

 private:
  const T* at(index_t offset) const { return static_cast<const T*>(run_.at(offset)); }

  // Calls f(item, which of its heads) for all items of all sequences that hold the head.
  template <class F>
  void for_each_item_of(index_t kv_head, index_t head, F f) const {
    for (index_t s = 0; s < run_.plan.sequences(); ++s) {
      const Range items = run_.items.of_keys(s, kv_head);
      for (index_t i = items.begin; i < items.end; ++i) {
        const index_t h = head - run_.items[i].first_head;
        if (0 <= h && h < run_.items[i].num_heads) f(run_.items[i], h);
      }
    }
  }

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
    const T scale = static_cast<T>(p_.attention.scale);
    const T *d_k = line_.data(), *d_v = d_k + padded(p_.dim);
    if (a_.d_k.data != nullptr) store_row(block.d_k, p_.dtype, j, d_k, p_.dim, scale);
    if (a_.d_v.data != nullptr) store_row(block.d_v, p_.dtype, j, d_v, p_.attention.value_dim, T{1});
  }

  void global_queries(index_t s, index_t kv_head, index_t head) {
    const Range items = run_.items.of_keys(s, kv_head);
    const AttentionHead view = run_.plan.head_of(s, head);
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
      store_row(view.d_q, p_.dtype, queries[static_cast<std::size_t>(g)], line_.data(), p_.dim, static_cast<T>(p_.attention.scale));
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

template <class T>
void add_up(const Run& run, const Executor& executor) {
  const Problem& p = run.plan.problem();
  const AttentionArgs& a = run.plan.args();
  const index_t kv_heads = p.attention.kv_heads;
  if (a.d_k.data != nullptr || a.d_v.data != nullptr || run.plan.has_globals())
    executor.for_each_range(run.plan.sequences() * kv_heads, [&](index_t begin, index_t end) {
      AddUp<T> sums(run);
      for (index_t i = begin; i < end; ++i)
        if (has_rest(run, i / kv_heads, i % kv_heads)) sums.keys_and_global_queries(i / kv_heads, i % kv_heads);
    });
  AddUp<T> sums(run);
  for (index_t head = 0; head < p.heads; ++head) sums.bias_and_sink(head);
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

}  // namespace

Status run_attention_backward(AttentionKernel kernel, const Problem& problem, const Config&, const Args& args) {
  const AttentionPlan plan(problem, args.attention);
  const BackwardItems items(plan);
  const std::size_t bytes = scratch_bytes(problem, items.capacity());
  const auto sums_bytes = static_cast<std::size_t>(larger(items.sums_elements(), 1) * element_bytes(problem));
  const std::unique_ptr<void, Free> sums(std::calloc(sums_bytes, 1));
  const auto no_room = [](std::size_t n) { return Status(StatusCode::out_of_memory, "no memory for " + std::to_string(n) + " bytes"); };
  if (sums == nullptr) return no_room(sums_bytes);
  const Run run{plan, items, static_cast<std::byte*>(sums.get())};
  std::atomic<index_t> multiply_adds{0};
  std::atomic<bool> no_memory{false};
  args.executor.for_each_range(items.size(), [&](index_t begin, index_t end) {
    void* scratch = thread_scratch(bytes);
    if (scratch == nullptr) return no_memory.store(true);
    std::vector<AttentionHead> heads;
    index_t done = 0;
    for (index_t i = begin; i < end; ++i) run_item(kernel, run, items[i], &heads, scratch, &done);
    multiply_adds += done;
  });
  if (args.stats != nullptr) *args.stats = {items.size(), multiply_adds};
  if (no_memory) return no_room(bytes);
  problem.dtype == DType::f64 ? add_up<double>(run, args.executor) : add_up<float>(run, args.executor);
  return {};
}

}  // namespace window_matmul::cpu
