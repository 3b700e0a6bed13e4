// src/cuda/emulation/block.cpp: who runs next, who waits for whom, and when copies land.
#include "cuda/emulation/block.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

namespace window_matmul::cuda::emulation {

Block::Block(int threads, std::size_t shared_bytes, GlobalMemory& global, Report& report, const Settings& settings)
    : report_(report),
      global_(global),
      shared_(report, clocks_),
      traffic_(report),
      settings_(settings),
      shared_bytes_(shared_bytes),
      threads_(static_cast<std::size_t>(threads)),
      warps_(static_cast<std::size_t>((threads + 31) / 32)),
      random_(settings.seed * 0x9E3779B97F4A7C15u + 1) {
  if (threads <= 0 || threads % 32 != 0) report.fail("a block of " + std::to_string(threads) + " threads; it needs whole warps");
}

std::uint64_t Block::random() {  // xorshift
  random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
  return random_;
}

// ---- the scheduler ------------------------------------------------------------------------------------------------------------------

void Block::enter(void* block) {
  Block& self = *static_cast<Block*>(block);
  self.body_.run(self.body_.kernel);
  --self.live_;
  self.wait();  // for nothing
}

void Block::start() {
  const int threads = static_cast<int>(threads_.size());
  clocks_.reset(threads / 32), shared_.reset(shared_bytes_, threads / 32), traffic_.reset(threads);
  for (Thread& t : threads_) {
    t.copies.clear(), t.groups.clear(), t.uncommitted = 0;
    t.fiber.start(enter, this);
  }
  for (Warp& w : warps_) w.ready = kAll, w.waiting = 0;
  for (Barrier& b : barriers_) b.waiting.assign(warps_.size(), 0), b.came = 0;
  live_ = threads;
}

void Block::run(const Body& body, index_t block_index, index_t grid_size) {
  body_ = body, block_index_ = block_index, grid_size_ = grid_size;
  current_ = this;
  start();
  const auto warps = static_cast<std::uint64_t>(warps_.size());
  int lagging = static_cast<int>(random() % warps);
  std::vector<int> able;
  while (live_ > 0) {
    able.clear();
    for (int w = 0; w < static_cast<int>(warps); ++w)
      if (warps_[static_cast<std::size_t>(w)].ready != 0) able.push_back(w);
    if (able.empty()) return report_.fail("deadlock: " + who_waits());
    if (able.size() > 1 && !one_in(8)) able.erase(std::remove(able.begin(), able.end(), lagging), able.end());
    run_warp(able[random() % able.size()]);
    if (one_in(32)) lagging = static_cast<int>(random() % warps);
    land_some();
  }
  finish();
}

// A turn of a warp: each of its lanes that is ready, from any one on, until it waits. They hand over to each other.
void Block::run_warp(int warp) {
  first_lane_of_turn_ = static_cast<int>(random() % 32);
  to_come_ = kAll;
  running_ = warp * 32;
  running_ = next_in_turn();
  at(running_).fiber.resume();
}

int Block::next_in_turn() {  // -1: none
  const Lanes ready = std::rotr(my_warp().ready, first_lane_of_turn_) & to_come_;
  if (ready == 0) return -1;
  const int place = std::countr_zero(ready);
  to_come_ = ~Lanes{1} << place;
  return first_lane() + (first_lane_of_turn_ + place) % 32;
}

void Block::wait() {
  Fiber& mine = at(running_).fiber;
  my_warp().ready &= ~my_lane();
  const int next = next_in_turn();
  if (next < 0) return mine.suspend();
  running_ = next;
  mine.hand_over(at(next).fiber);
}

std::string Block::who_waits() {
  std::string text = std::to_string(live_) + " threads wait for others that do not come:";
  for (std::size_t w = 0; w < warps_.size(); ++w)
    if (warps_[w].waiting != 0) text += " " + std::to_string(std::popcount(warps_[w].waiting)) + " lanes of warp " + std::to_string(w);
  for (std::size_t b = 0; b < barriers_.size(); ++b)
    if (const auto& [waiting, threads, came] = barriers_[b]; came > 0)
      text += " " + std::to_string(came) + " of " + std::to_string(threads) + " in barrier " + std::to_string(b);
  return text;
}

void Block::finish() {
  traffic_.flush();
  for (std::size_t t = 0; t < threads_.size(); ++t)
    if (!threads_[t].copies.empty()) {
      for (const Copy& c : threads_[t].copies)
        if (c.bytes > 0) return report_.fail("thread " + std::to_string(t) + " ends without having waited for its copies");
    }
}

// ---- meeting ------------------------------------------------------------------------------------------------------------------------

void Block::barrier(int id, int threads) {
  Barrier& b = barriers_[static_cast<std::size_t>(id)];
  if (b.came > 0 && b.threads != threads)
    report_.fail("barrier " + std::to_string(id) + " is asked for " + std::to_string(b.threads) + " and for " + std::to_string(threads) +
                 " threads");
  if (threads % 32 != 0 || threads <= 0 || threads > static_cast<int>(threads_.size()))
    report_.fail("barrier " + std::to_string(id) + " of " + std::to_string(threads) + " threads; it needs whole warps of the block");
  b.threads = threads;
  b.waiting[static_cast<std::size_t>(running_ / 32)] |= my_lane();
  if (++b.came < threads) return wait();
  meet(b.waiting, id);
  if (threads == static_cast<int>(threads_.size())) traffic_.flush();
  for (std::size_t w = 0; w < warps_.size(); ++w) warps_[w].ready |= std::exchange(b.waiting[w], 0);
  b.came = 0;
}

void Block::meet(const std::vector<Lanes>& lanes, int barrier) {
  std::uint32_t warps = 0;
  for (std::size_t w = 0; w < lanes.size(); ++w) {
    if (lanes[w] != 0 && lanes[w] != kAll)
      report_.fail("lanes of warp " + std::to_string(w) + " alone come to barrier " + std::to_string(barrier));
    warps |= std::uint32_t{lanes[w] != 0} << w;
  }
  clocks_.meet(warps);
}

void Block::together(Together what, void* mine) {
  Warp& w = my_warp();
  if (w.waiting != 0 && w.what != what) report_.fail("lanes of warp " + std::to_string(running_ / 32) + " meet in different instructions");
  w.what = what;
  w.brought[running_ % 32] = mine;
  w.waiting |= my_lane();
  if (w.waiting != kAll) return wait();
  what(*this, w.brought);
  w.waiting = 0, w.ready = kAll;
}

void Block::sync_warp() {
  together([](Block& block, void* const*) { block.clocks_.meet(std::uint32_t{1} << (block.running_ / 32)); }, nullptr);
}

// ---- memory -------------------------------------------------------------------------------------------------------------------------

void Block::load_global(std::uintptr_t address, void* to, std::uint32_t bytes) {
  if (!global_.may_load(address, bytes, bytes)) return static_cast<void>(std::memset(to, 0, bytes));
  if (settings_.count_traffic) traffic_.record(running_, Traffic::Space::global, __builtin_return_address(0), address, bytes);
  copy_few(to, reinterpret_cast<const void*>(address), bytes);
}

void Block::store_global(std::uintptr_t address, const void* from, std::uint32_t bytes) {
  if (!global_.may_store(address, bytes)) return;
  if (settings_.count_traffic) traffic_.record(running_, Traffic::Space::global, __builtin_return_address(0), address, bytes);
  copy_few(reinterpret_cast<void*>(address), from, bytes);
}

void Block::load_shared(std::uint32_t offset, void* to, std::uint32_t bytes) {
  if (!shared_.load(running_, offset, to, bytes)) return;
  if (settings_.count_traffic) traffic_.record(running_, Traffic::Space::shared, __builtin_return_address(0), offset, bytes);
}

void Block::store_shared(std::uint32_t offset, const void* from, std::uint32_t bytes) {
  if (!shared_.store(running_, offset, from, bytes)) return;
  if (settings_.count_traffic) traffic_.record(running_, Traffic::Space::shared, __builtin_return_address(0), offset, bytes);
}

void Block::copy_async(std::uint32_t offset, std::uintptr_t address, std::uint32_t bytes, int valid) {
  Copy copy{offset, bytes, {}};
  if (valid < 0 || valid > static_cast<int>(bytes)) return report_.fail("a copy of " + std::to_string(valid) + " valid bytes");
  if (address % bytes != 0) return report_.fail("a copy of " + std::to_string(bytes) + " bytes from an address that is not aligned");
  if (valid > 0 && global_.may_load(address, static_cast<std::size_t>(valid), 0)) {
    if (settings_.count_traffic)
      traffic_.record(running_, Traffic::Space::global, __builtin_return_address(0), address, static_cast<std::uint32_t>(valid));
    std::memcpy(copy.data.data(), reinterpret_cast<const void*>(address), static_cast<std::size_t>(valid));
  }
  if (!shared_.begin_copy(running_, offset, bytes)) return;
  if (settings_.count_traffic)
    traffic_.record(running_, Traffic::Space::shared, static_cast<char*>(__builtin_return_address(0)) + 1, offset, bytes);
  at(running_).copies.push_back(copy);
  ++at(running_).uncommitted;
}

void Block::land(Copy& copy) {
  if (!copy.landed) shared_.land_copy(copy.offset, copy.data.data(), copy.bytes);
  copy.landed = true;
}

void Block::land_some() {  // a few, whosever, in any order; the rest lands when it is waited for
  for (int i = 0; i < 4; ++i) {
    std::vector<Copy>& copies = threads_[random() % threads_.size()].copies;
    if (!copies.empty()) land(copies[random() % copies.size()]);
  }
}

void Block::commit_copies() {
  Thread& t = at(running_);
  t.groups.push_back(t.uncommitted);
  t.uncommitted = 0;
}

void Block::wait_copies(int newest) {
  Thread& t = at(running_);
  while (static_cast<int>(t.groups.size()) > newest) {
    const auto count = static_cast<std::ptrdiff_t>(t.groups.front());
    t.groups.erase(t.groups.begin());
    for (std::ptrdiff_t i = count; i-- > 0;) land(t.copies[static_cast<std::size_t>(i)]);
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      const Copy& copy = t.copies[static_cast<std::size_t>(i)];
      shared_.end_copy(running_, copy.offset, copy.bytes);
    }
    t.copies.erase(t.copies.begin(), t.copies.begin() + count);
  }
}

// ---- grids --------------------------------------------------------------------------------------------------------------------------

void run_grid(const Body& body, index_t blocks, int threads, std::size_t shared_bytes, GlobalMemory& global, Report& report,
              const Settings& settings) {
  Block block(threads, shared_bytes, global, report, settings);
  if (!report.ok()) return;
  std::vector<index_t> order(static_cast<std::size_t>(blocks));
  std::iota(order.begin(), order.end(), index_t{0});
  std::uint64_t state = settings.seed + 1;
  for (std::size_t i = order.size(); i > 1; --i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    std::swap(order[i - 1], order[(state >> 33) % i]);
  }
  for (const index_t index : order) {
    block.run(body, index, blocks);
    if (report.num_errors > 1000) break;
  }
  report.sectors_distinct = global.distinct_sectors();
}

}  // namespace window_matmul::cuda::emulation
