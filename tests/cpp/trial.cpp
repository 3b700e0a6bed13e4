// tests/cpp/trial.cpp: one operator on one case: operands made, poisoned where nothing may look, run, and compared.
#include "trial.hpp"

#include <ostream>

namespace window_matmul {

void PrintTo(Op op, std::ostream* out) { *out << name_of(op); }

}  // namespace window_matmul

namespace window_matmul::testing_tools {
namespace {

Shape with_matrix(Shape lead, index_t rows, index_t cols) {
  lead.push_back(rows), lead.push_back(cols);
  return lead;
}

// The index within `from` of the matrix that broadcasting pairs with matrix `index` of `to`.
index_t broadcast_index(const Shape& from, const Shape& to, index_t index) {
  index_t out = 0, step = 1;
  for (std::size_t back = 1; back <= to.size(); ++back) {
    const index_t extent = to[to.size() - back], mine = back <= from.size() ? from[from.size() - back] : 1;
    out += mine == 1 ? 0 : index % extent * step;
    step *= mine;
    index /= extent;
  }
  return out;
}

void mark(std::vector<bool>& flags, index_t first, index_t count, index_t step) {
  if (count == 0 || flags[static_cast<std::size_t>(first)]) return;  // a run is marked as a whole
  for (index_t n = 0; n < count; ++n) flags[static_cast<std::size_t>(first + n * step)] = true;
}

}  // namespace

Trial::Trial(Op op_, const Case& case_, std::uint64_t seed, Around around)
    : op(op_),
      c(case_),
      x(c.dtype, with_matrix(op == Op::softmax ? c.lead() : c.lead_x, c.rows, op == Op::band_out ? c.dim : c.width()), Role::input, c.x,
        around),
      y(c.dtype, with_matrix(op == Op::softmax ? Shape{} : c.lead_y, rows_of_y(), cols_of_y()), Role::input, c.y, around),
      out(c.dtype, with_matrix(c.lead(), keys_are_rows() ? c.cols : c.rows, dim_is_cols() ? c.dim : c.width()), Role::output, c.out,
          around) {
  fill_used(seed);
}

Head Trial::geometry(index_t index) const {
  const index_t heads = c.lead().empty() ? 1 : c.lead().back();
  Head h{.rows = c.rows, .cols = c.cols, .left = c.window.left, .right = c.window.right, .shift = c.shift()};
  h.dilation = c.dilation_of(index % heads), h.dim = c.dim, h.fill = c.fill, h.dtype = c.dtype;
  return h;
}

Numbers Trial::expected() const {
  Numbers all;
  all.reserve(static_cast<std::size_t>(out.size()));
  const std::vector<double> xs = x.values(), ys = y.values();
  for (index_t index = 0; index < volume(c.lead()); ++index) {
    Head head = geometry(index);
    head.x = xs.data() + first_of(x, index), head.y = ys.data() + first_of(y, index);
    const Numbers one = evaluate(op, head);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

Status Trial::run(const RunOptions& options) {
  switch (op) {
    case Op::band_out:
      return band_out(c.window, x.view(), y.view(), out.view(), c.fill, options);
    case Op::band_in:
      return band_in(c.window, x.view(), y.view(), out.view(), options);
    case Op::band_in_transposed:
      return band_in_transposed(c.window, x.view(), y.view(), out.view(), options);
    case Op::softmax:
      return window_softmax(c.window, c.cols, x.view(), out.view(), options);
    case Op::softmax_backward:
      return window_softmax_backward(c.window, c.cols, x.view(), y.view(), out.view(), options);
    case Op::attention:
    case Op::attention_backward:
      break;  // attention_*.hpp
  }
  return {};
}

testing::AssertionResult Trial::check(const RunOptions& options) {
  return check(expected(), [&] { return run(options); });
}

void Trial::watch() {
  out.blank();  // what an earlier call wrote is not this one's
  x.watch(), y.watch(), out.watch();
}

testing::AssertionResult Trial::compare(const Status& status, const Numbers& numbers) {
  const std::string what = std::string(name_of(op)) + " of " + text(c) + ": ";
  if (!status.ok()) return testing::AssertionFailure() << what << status.message();
  for (Tensor* tensor : {&x, &y, &out}) {
    if (const std::string damage = tensor->damage(); !damage.empty()) return testing::AssertionFailure() << what << damage;
  }
  const testing::AssertionResult result = close(out, numbers);
  return result ? result : testing::AssertionFailure() << what << result.message();
}

index_t Trial::first_of(const Tensor& t, index_t index) const {
  const Shape& shape = t.shape();
  const Shape lead(shape.begin(), shape.end() - 2);
  return broadcast_index(lead, c.lead(), index) * shape[lead.size()] * shape.back();
}

void Trial::mark_used(Flags& in_x, Flags& in_y) const {
  if (x.size() == 0) return;
  for (index_t index = 0; index < volume(c.lead()); ++index) {
    const index_t x0 = first_of(x, index), y0 = op == Op::softmax ? 0 : first_of(y, index);
    geometry(index).for_each_pair([&](index_t i, index_t slot, index_t j) {
      if (op == Op::band_out) mark(in_x, x0 + i * c.dim, c.dim, 1), mark(in_y, y0 + j, c.dim, c.cols);
      if (op != Op::band_out) mark(in_x, x0 + i * c.width() + slot, 1, 1);
      if (op == Op::band_in) mark(in_y, y0 + j * c.dim, c.dim, 1);
      if (op == Op::band_in_transposed) mark(in_y, y0 + i * c.dim, c.dim, 1);
      if (op == Op::softmax_backward) mark(in_y, y0 + i * c.width() + slot, 1, 1);
    });
  }
}

// Numbers wherever the definition looks; the NaN that the tensors are made of elsewhere.
void Trial::fill_used(std::uint64_t seed) {
  Flags in_x(static_cast<std::size_t>(x.size())), in_y(static_cast<std::size_t>(y.size()));
  mark_used(in_x, in_y);
  Random random(seed);
  const auto fill = [&](Tensor& t, const Flags& flags, double low, double high) {
    for (index_t i = 0; i < t.size(); ++i) {
      if (flags[static_cast<std::size_t>(i)]) t.set(i, random.between(low, high));
    }
  };
  fill(x, in_x, op == Op::softmax ? -6 : -1, op == Op::softmax ? 6 : 1);
  fill(y, in_y, op == Op::softmax_backward ? 0 : -1, 1);
}

}  // namespace window_matmul::testing_tools
