// tests/cpp/cases.cpp: the one list of problems that every operator and every row of the kernel table is tested on.
#include "cases.hpp"

namespace window_matmul::testing_tools {
namespace {

constexpr index_t kLengths[] = {0, 1, 2, 5, 63, 64, 65, 130, 300};
constexpr struct {
  index_t left, right;
} kWindows[] = {{0, 0}, {0, 3}, {2, 0}, {1, 1}, {16, 16}, {64, 31}, {5, 90}, {128, 128}, {400, 0}, {0, 400}, {350, 350}};

std::optional<index_t> any_offset(Random& random, index_t rows, index_t cols) {
  const std::optional<index_t> offsets[] = {{}, {}, {}, 0, -1, 3, cols - 1, cols + 4, -rows, -rows - 4, -rows / 2, cols / 2, -70};
  return random.pick(offsets);
}

}  // namespace

Shape broadcast(const Shape& a, const Shape& b) {
  Shape out = a.size() < b.size() ? b : a;
  const Shape& other = a.size() < b.size() ? a : b;
  for (std::size_t d = 0; d < other.size(); ++d) {
    index_t& extent = out[out.size() - other.size() + d];
    extent = extent == 1 ? other[d] : extent;
  }
  return out;
}

std::string text(const Case& c) {
  std::string out = "queries " + std::to_string(c.rows) + " keys " + std::to_string(c.cols) + " window (" + std::to_string(c.window.left) +
                    ", " + std::to_string(c.window.right) + ") shift " + std::to_string(c.shift()) + " dilation " + text(c.window.dilation);
  out += " dim " + std::to_string(c.dim) + " " + name_of(c.dtype) + " leading " + text(c.lead_x) + " and " + text(c.lead_y);
  return out + " x " + text(c.x) + ", y " + text(c.y) + ", out " + text(c.out) + ", fill " + std::to_string(c.fill);
}

Layout any_layout(Random& random, Role role) {
  Layout layout;
  layout.turned = random.one_in(3);
  layout.heads_inside = random.one_in(4);
  layout.backwards = random.one_in(8);
  layout.repeated = role == Role::input && random.one_in(12);
  layout.step = random.one_in(6) ? 2 + random.up_to(1) : 1;
  layout.gap = random.one_in(3) ? 1 + random.up_to(4) : 0;
  layout.offset = random.one_in(3) ? 1 + random.up_to(2) : 0;
  return layout;
}

Case any_case(Random& random, index_t rows, index_t cols, index_t left, index_t right) {
  static const Shape leads[][2] = {{{}, {}},      {{}, {}},     {{1}, {3}},       {{3}, {3}},       {{2, 3}, {2, 3}}, {{2, 1}, {3}},
                                   {{3}, {2, 1}}, {{}, {2, 2}}, {{1, 2}, {2, 1}}, {{2, 2, 1}, {2}}, {{0, 2}, {2}},    {{2, 2}, {}}};
  const Shape* lead = leads[random.up_to(static_cast<index_t>(std::size(leads)) - 1)];
  Case c{.rows = rows, .cols = cols, .window = {.left = left, .right = right}, .lead_x = lead[0], .lead_y = lead[1]};
  c.dim = random.pick(kDims);
  c.dtype = random.pick(kDTypes);
  c.fill = random.pick(kFills);
  c.window.query_offset = any_offset(random, rows, cols);
  const Shape all = c.lead();
  const index_t dilations = all.empty() ? random.up_to(1) : random.pick(Shape{0, 1, 1, all.back()});
  for (index_t d = 0; d < dilations; ++d) c.window.dilation.push_back(random.pick(kDilations));
  c.x = any_layout(random, Role::input), c.y = any_layout(random, Role::input), c.out = any_layout(random, Role::output);
  return c;
}

Case within(Case c, index_t cost) {
  for (std::size_t d = std::size(kDims); d-- > 1 && c.cost() > cost;) c.dim = std::min(c.dim, kDims[d]);
  if (c.cost() > cost) c.lead_x = c.lead_y = {}, c.window.dilation.resize(std::min<std::size_t>(c.window.dilation.size(), 1));
  return c;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = [] {
    std::vector<Case> list;
    Random random(1);
    for (const index_t rows : kLengths) {
      for (const index_t cols : kLengths) {
        for (const auto& window : kWindows) list.push_back(within(any_case(random, rows, cols, window.left, window.right), 120'000));
      }
    }
    for (const DType dtype : kDTypes) {
      list.push_back({.rows = 300, .cols = 300, .window = {64, 64}, .dim = 160, .dtype = dtype});
      list.push_back({.rows = 130, .cols = 300, .window = {128, 0}, .dim = 64, .dtype = dtype, .lead_x = {2}, .lead_y = {2}});
      list.push_back({.rows = 40, .cols = 45, .window = {9, 20}, .dim = 2100, .dtype = dtype, .y = {.turned = true}});
      list.push_back({.rows = 70, .cols = 90, .window = {9, 4}, .dim = 300, .dtype = dtype, .out = {.gap = 3}});
      list.push_back({.rows = 400, .cols = 1300, .window = {500, 600}, .dim = 3, .dtype = dtype, .y = {.turned = true}});
    }
    return list;
  }();
  return all;
}

}  // namespace window_matmul::testing_tools
