// tests/cpp/attention_numbers.hpp: masks, and numbers of sequences, as fused attention is given them.
#pragma once

#include <cstdint>
#include <vector>

#include "window_matmul/attention.hpp"

namespace window_matmul::testing_tools {

struct MaskBytes {  // (B, Lk) with gaps between keys and between batches; absent where it is not used
  index_t batch = 0, keys = 0;
  bool used = false;
  std::vector<std::uint8_t> bytes = std::vector<std::uint8_t>(static_cast<std::size_t>(batch * (keys * 2 + 3) + 1), 0);

  std::uint8_t& at(index_t b, index_t j) { return bytes[static_cast<std::size_t>(b * (keys * 2 + 3) + 2 * j)]; }
  MaskView view() const { return used ? MaskView{bytes.data(), keys * 2 + 3, 2} : MaskView{}; }
};

// Numbers as a GPU is given them: int32 with gaps, or int64.
struct NumbersThere {
  std::vector<std::int32_t> narrow;

  NumbersView view(const std::vector<index_t>& list, bool wide) {
    if (list.empty()) return {};
    if (wide) return {list.data(), true, static_cast<index_t>(list.size()), 1};
    narrow.clear();
    for (const index_t number : list) narrow.push_back(static_cast<std::int32_t>(number)), narrow.push_back(-1);
    return {narrow.data(), false, static_cast<index_t>(list.size()), 2};
  }
};

}  // namespace window_matmul::testing_tools
