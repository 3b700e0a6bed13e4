// src/cuda/emulation/traffic.cpp: bank conflicts and sectors of the requests of warps.
#include "cuda/emulation/traffic.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>

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
  by_thread_[static_cast<std::size_t>(thread)].push_back({reinterpret_cast<std::uintptr_t>(place), address, bytes, space});
}

void Traffic::flush() {
  for (std::size_t first = 0; first < by_thread_.size(); first += kLanes) flush_warp(first);
}

void Traffic::flush_warp(std::size_t first) {
  std::map<std::tuple<std::uintptr_t, std::uint32_t, Space>, Place> places;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    for (const Access& a : by_thread_[first + lane]) {
      Place& place = places[{a.place, a.bytes, a.space}];
      if (place.lane != lane) place.lane = lane, place.times = 0;
      if (place.times == place.requests.size()) place.requests.emplace_back();
      Request& request = place.requests[place.times++];
      request.addresses[request.lanes++] = a.address;
    }
    by_thread_[first + lane].clear();
  }
  for (const auto& [what, place] : places)
    for (const Request& r : place.requests) {
      const std::span<const std::uintptr_t> addresses(r.addresses.data(), r.lanes);
      const auto& [where, bytes, space] = what;
      space == Space::shared ? count_shared(addresses, bytes) : count_global(addresses, bytes);
    }
}

void Traffic::count_global(std::span<const std::uintptr_t> addresses, std::uint32_t bytes) {
  std::vector<std::uintptr_t> sectors;
  for (const std::uintptr_t a : addresses)
    for (std::uintptr_t s = a / kSectorBytes; s <= (a + bytes - 1) / kSectorBytes; ++s) sectors.push_back(s);
  report_.sectors_requested += count_distinct(sectors);
}

void Traffic::count_shared(std::span<const std::uintptr_t> addresses, std::uint32_t bytes) {
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
