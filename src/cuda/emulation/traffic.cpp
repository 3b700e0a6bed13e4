// src/cuda/emulation/traffic.cpp: bank conflicts and sectors of the requests of warps.
#include "cuda/emulation/traffic.hpp"

#include <algorithm>
#include <array>
#include <tuple>
#include <unordered_map>

namespace window_matmul::cuda::emulation {
namespace {

constexpr std::size_t kLanes = 32, kBanks = 32;
constexpr std::uintptr_t kWord = 4, kSectorBytes = 32;

std::int64_t count_distinct(std::vector<std::uintptr_t>& values) {
  std::sort(values.begin(), values.end());
  return std::unique(values.begin(), values.end()) - values.begin();
}

}  // namespace

void Traffic::record(int thread, Space space, const void* place, std::uintptr_t address, std::uint32_t bytes) {
  by_thread_[static_cast<std::size_t>(thread)].push_back({reinterpret_cast<std::uintptr_t>(place), address, 0, bytes, 0, space});
}

void Traffic::flush() {
  for (std::size_t first = 0; first < by_thread_.size(); first += kLanes) flush_warp(first);
}

void Traffic::flush_warp(std::size_t first) {
  std::vector<Access> all;
  const std::size_t end = std::min(first + kLanes, by_thread_.size());
  for (std::size_t t = first; t < end; ++t) {
    std::unordered_map<std::uintptr_t, std::uint32_t> times;
    for (Access access : by_thread_[t]) {
      access.nth = times[access.place]++, access.lane = static_cast<std::uint32_t>(t - first);
      all.push_back(access);
    }
    by_thread_[t].clear();
  }
  const auto request = [](const Access& a) { return std::tie(a.place, a.nth, a.space, a.bytes); };
  std::sort(all.begin(), all.end(), [&](const Access& a, const Access& b) {
    return std::tuple_cat(request(a), std::tie(a.lane)) < std::tuple_cat(request(b), std::tie(b.lane));
  });
  for (std::size_t i = 0; i < all.size();) {
    std::vector<std::uintptr_t> addresses;
    const Access& a = all[i];
    for (; i < all.size() && request(all[i]) == request(a); ++i) addresses.push_back(all[i].address);
    a.space == Space::shared ? count_shared(addresses, a.bytes) : count_global(addresses, a.bytes);
  }
}

void Traffic::count_global(const std::vector<std::uintptr_t>& addresses, std::uint32_t bytes) {
  std::vector<std::uintptr_t> sectors;
  for (const std::uintptr_t a : addresses)
    for (std::uintptr_t s = a / kSectorBytes; s <= (a + bytes - 1) / kSectorBytes; ++s) sectors.push_back(s);
  report_.sectors_requested += count_distinct(sectors);
}

void Traffic::count_shared(const std::vector<std::uintptr_t>& addresses, std::uint32_t bytes) {
  const std::size_t together = bytes <= kWord ? kLanes : kLanes * kWord / bytes;
  for (std::size_t first = 0; first < addresses.size(); first += together) {
    std::vector<std::uintptr_t> words;
    for (std::size_t i = first; i < std::min(first + together, addresses.size()); ++i)
      for (std::uintptr_t w = addresses[i] / kWord; w <= (addresses[i] + bytes - 1) / kWord; ++w) words.push_back(w);
    words.resize(static_cast<std::size_t>(count_distinct(words)));
    std::array<std::int64_t, kBanks> of_bank{};
    for (const std::uintptr_t w : words) ++of_bank[w % kBanks];
    report_.shared_ideal += 1, report_.shared_actual += *std::max_element(of_bank.begin(), of_bank.end());
  }
}

}  // namespace window_matmul::cuda::emulation
