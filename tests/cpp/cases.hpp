// tests/cpp/cases.hpp: the one list of problems that every operator and every row of the kernel table is tested on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "buffers.hpp"
#include "window_matmul/ops.hpp"

namespace window_matmul::testing_tools {

// The same numbers everywhere, unlike the distributions of <random>.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u) {}

  std::uint64_t bits() {  // splitmix64
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double between(double low, double high) { return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53; }
  index_t up_to(index_t highest) { return static_cast<index_t>(bits() % static_cast<std::uint64_t>(highest + 1)); }
  bool one_in(index_t n) { return up_to(n - 1) == 0; }
  template <class List>
  auto pick(const List& list) {
    return std::data(list)[up_to(static_cast<index_t>(std::size(list)) - 1)];
  }

 private:
  std::uint64_t state_;
};

Shape broadcast(const Shape& a, const Shape& b);

struct Case {
  index_t rows = 0, cols = 0;  // queries, keys
  Window window = {};
  index_t dim = 1;
  DType dtype = DType::f32;
  Shape lead_x = {}, lead_y = {};  // the leading dims of the two operands
  Layout x = {}, y = {}, out = {};
  double fill = 0;

  Shape lead() const { return broadcast(lead_x, lead_y); }
  index_t width() const { return window.left + 1 + window.right; }
  index_t shift() const { return window.query_offset.value_or(cols - rows); }
  index_t dilation_of(index_t head) const {  // `head`: any index whose remainder by the heads is the head
    if (window.dilation.empty()) return 1;
    return window.dilation[static_cast<std::size_t>(head) % window.dilation.size()];
  }
  // No less than the multiply-adds and than the elements of band storage.
  index_t cost() const { return volume(lead()) * rows * std::max(width(), std::min(width(), cols) * dim); }
};

std::string text(const Case&);

inline constexpr index_t kDims[] = {0, 1, 3, 8, 17, 64, 100, 160};
inline constexpr index_t kDilations[] = {1, 2, 3, 7};
inline constexpr double kFills[] = {0, -kInf, kInf, 2.5, -1024, 1e300, -1e30};  // those beyond a dtype become infinite

Layout any_layout(Random& random, Role role);
// Everything a case leaves open besides its lengths and sides.
Case any_case(Random& random, index_t rows, index_t cols, index_t left, index_t right);
Case within(Case c, index_t cost);  // of a smaller dim, or without leading dims, where it would take long

// Every pair of lengths with every window, the rest drawn; then long, wide and deep ones in every dtype.
const std::vector<Case>& cases();

}  // namespace window_matmul::testing_tools
