// src/cuda/emulation/block.cpp: who runs next, who waits for whom, and when copies land.
#include "cuda/emulation/block.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

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
  (*self.kernel_)();
  self.at(self.running_).state = State::done;
  --self.live_;
  self.at(self.running_).fiber.suspend();
}

void Block::start() {
  const int threads = static_cast<int>(threads_.size());
  clocks_.reset(threads), shared_.reset(shared_bytes_, threads), traffic_.reset(threads);
  for (Thread& t : threads_) {
    t.state = State::ready, t.copies.clear(), t.groups.clear(), t.uncommitted = 0;
    t.fiber.start(enter, this);
  }
  for (Warp& w : warps_) w = {};
  for (Barrier& b : barriers_) b = {};
  live_ = threads;
}

void Block::run(const std::function<void()>& kernel, index_t block_index, index_t grid_size) {
  kernel_ = &kernel, block_index_ = block_index, grid_size_ = grid_size;
  current_ = this;
  start();
  const auto warps = static_cast<std::uint64_t>(warps_.size());
  int lagging = static_cast<int>(random() % warps);
  std::vector<int> able;
  while (live_ > 0) {
    able.clear();
    for (int w = 0; w < static_cast<int>(warps); ++w)
      if (has_ready(w)) able.push_back(w);
    if (able.empty()) return report_.fail("deadlock: " + who_waits());
    if (able.size() > 1 && !one_in(8)) able.erase(std::remove(able.begin(), able.end(), lagging), able.end());
    run_warp(able[random() % able.size()]);
    if (one_in(32)) lagging = static_cast<int>(random() % warps);
    land_some();
  }
  finish();
}

bool Block::has_ready(int warp) {
  for (int t = warp * 32; t < warp * 32 + 32; ++t)
    if (at(t).state == State::ready) return true;
  return false;
}

void Block::run_warp(int warp) {
  const int first = static_cast<int>(random() % 32);
  for (int i = 0; i < 32; ++i) {
    running_ = warp * 32 + (first + i) % 32;
    if (at(running_).state != State::ready) continue;
    ++report_.switches;
    at(running_).fiber.resume();
  }
}

void Block::wait() {
  const int mine = running_;
  at(mine).state = State::waits;
  at(mine).fiber.suspend();
  running_ = mine;
}

void Block::wake(const std::vector<int>& threads) {
  for (const int t : threads)
    if (at(t).state == State::waits) at(t).state = State::ready;
}

std::string Block::who_waits() {
  std::string text = std::to_string(live_) + " threads wait for others that do not come:";
  for (std::size_t w = 0; w < warps_.size(); ++w)
    if (!warps_[w].waiting.empty()) text += " " + std::to_string(warps_[w].waiting.size()) + " lanes of warp " + std::to_string(w);
  for (std::size_t b = 0; b < barriers_.size(); ++b)
    if (!barriers_[b].waiting.empty())
      text += " " + std::to_string(barriers_[b].waiting.size()) + " of " + std::to_string(barriers_[b].threads) + " in barrier " +
              std::to_string(b);
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
  if (!b.waiting.empty() && b.threads != threads)
    report_.fail("barrier " + std::to_string(id) + " is asked for " + std::to_string(b.threads) + " and for " + std::to_string(threads) +
                 " threads");
  if (threads % 32 != 0 || threads <= 0 || threads > static_cast<int>(threads_.size()))
    report_.fail("barrier " + std::to_string(id) + " of " + std::to_string(threads) + " threads; it needs whole warps of the block");
  b.threads = threads;
  b.waiting.push_back(running_);
  if (static_cast<int>(b.waiting.size()) < threads) return wait();
  clocks_.meet(b.waiting);
  if (threads == static_cast<int>(threads_.size())) traffic_.flush();
  wake(b.waiting);
  b.waiting.clear();
}

void Block::together(Together what, void* mine) {
  Warp& w = warps_[static_cast<std::size_t>(running_ / 32)];
  if (!w.waiting.empty() && w.what != what)
    report_.fail("lanes of warp " + std::to_string(running_ / 32) + " meet in different instructions");
  w.what = what;
  at(running_).mine = mine;
  w.waiting.push_back(running_);
  if (w.waiting.size() < 32) return wait();
  void* lanes[32];
  for (int l = 0; l < 32; ++l) lanes[l] = at(first_lane() + l).mine;
  what(*this, lanes);
  wake(w.waiting);
  w.waiting.clear();
}

void Block::sync_warp() {
  together([](Block& block, void* const*) { block.clocks_.meet(block.warps_[static_cast<std::size_t>(block.running_ / 32)].waiting); },
           nullptr);
}

// ---- memory -------------------------------------------------------------------------------------------------------------------------

void Block::load_global(std::uintptr_t address, void* to, std::uint32_t bytes) {
  std::memset(to, 0, bytes);
  if (!global_.may_load(address, bytes, bytes)) return;
  if (settings_.count_traffic) traffic_.record(running_, Traffic::Space::global, __builtin_return_address(0), address, bytes);
  std::memcpy(to, reinterpret_cast<const void*>(address), bytes);
}

void Block::store_global(std::uintptr_t address, const void* from, std::uint32_t bytes) {
  if (!global_.may_store(address, bytes)) return;
  if (settings_.count_traffic) traffic_.record(running_, Traffic::Space::global, __builtin_return_address(0), address, bytes);
  std::memcpy(reinterpret_cast<void*>(address), from, bytes);
}

void Block::load_shared(std::uint32_t offset, void* to, std::uint32_t bytes) {
  if (!shared_.load(running_, offset, to, bytes)) return;
  if (settings_.count_traffic) traffic_.record(running_, Traffic::Space::shared, __builtin_return_address(0), offset, bytes);
}

void Block::store_shared(std::uint32_t offset, const void* from, std::uint32_t bytes) {
  if (!shared_.store(running_, offset, from, bytes)) return;
  if (settings_.count_traffic) traffic_.record(running_, Traffic::Space::shared, __builtin_return_address(0), offset, bytes);
}

void Block::count_matrices(const std::vector<std::uintptr_t>& rows) {
  if (settings_.count_traffic) traffic_.count_shared(rows, 16);
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

void run_grid(const std::function<void()>& kernel, index_t blocks, int threads, std::size_t shared_bytes, GlobalMemory& global,
              Report& report, const Settings& settings) {
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
    block.run(kernel, index, blocks);
    if (report.num_errors > 1000) break;
  }
  report.sectors_distinct = global.distinct_sectors();
}

}  // namespace window_matmul::cuda::emulation
