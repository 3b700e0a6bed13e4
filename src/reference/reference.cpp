// src/reference/reference.cpp: the definitions, in double, over the pairs that see each other. Slow, and readable as mathematics.
#include "reference/reference.hpp"

#include <cmath>
#include <limits>

#include "reference/attention.hpp"
#include "reference/elements.hpp"
#include "task.hpp"

namespace window_matmul::reference {
namespace {

struct Scene {  // one task: queries q, keys k, slots band.slot(q, k)
  Band band;
  index_t dim;
  double fill;
  Elements x, y, out;
};

template <class F>
double sum(Range range, F&& f) {
  double total = 0;
  for (index_t i = range.begin; i < range.end; ++i) total += f(i);
  return total;
}

void band_out(const Scene& s) {
  for (index_t q = 0; q < s.band.rows; ++q)
    for (index_t c = 0; c < s.band.width(); ++c) {
      const index_t k = s.band.first(q) + c;
      s.out.set(q, c, s.band.contains(q, k) ? sum({0, s.dim}, [&](index_t n) { return s.x(q, n) * s.y(k, n); }) : s.fill);
    }
}

void band_in(const Scene& s) {
  for (index_t q = 0; q < s.band.rows; ++q)
    for (index_t n = 0; n < s.dim; ++n)
      s.out.set(q, n, sum(s.band.keys(q), [&](index_t k) { return s.x(q, s.band.slot(q, k)) * s.y(k, n); }));
}

void band_in_transposed(const Scene& s) {
  const Band queries_of = s.band.transposed();
  for (index_t k = 0; k < s.band.cols; ++k)
    for (index_t n = 0; n < s.dim; ++n)
      s.out.set(k, n, sum(queries_of.keys(k), [&](index_t q) { return s.x(q, s.band.slot(q, k)) * s.y(q, n); }));
}

void softmax(const Scene& s) {
  for (index_t q = 0; q < s.band.rows; ++q) {
    const Range slots = s.band.slots(q);
    double highest = -std::numeric_limits<double>::infinity();
    for (index_t c = slots.begin; c < slots.end; ++c) highest = s.x(q, c) > highest || std::isnan(s.x(q, c)) ? s.x(q, c) : highest;
    const bool sees_nothing = std::isinf(highest) && highest < 0;
    const double total = sees_nothing ? 1 : sum(slots, [&](index_t c) { return std::exp(s.x(q, c) - highest); });
    for (index_t c = 0; c < s.band.width(); ++c)
      s.out.set(q, c, slots.contains(c) && !sees_nothing ? std::exp(s.x(q, c) - highest) / total : 0);
  }
}

void softmax_backward(const Scene& s) {
  for (index_t q = 0; q < s.band.rows; ++q) {
    const Range slots = s.band.slots(q);
    const double mean = sum(slots, [&](index_t c) { return s.x(q, c) * s.y(q, c); });
    for (index_t c = 0; c < s.band.width(); ++c) s.out.set(q, c, slots.contains(c) ? s.y(q, c) * (s.x(q, c) - mean) : 0);
  }
}

void evaluate(Op op, const Scene& scene) {
  switch (op) {
    case Op::band_out:
      return band_out(scene);
    case Op::band_in:
      return band_in(scene);
    case Op::band_in_transposed:
      return band_in_transposed(scene);
    case Op::softmax:
      return softmax(scene);
    case Op::softmax_backward:
      return softmax_backward(scene);
    case Op::attention:
    case Op::attention_backward:
      return;  // attention.cpp
  }
}

}  // namespace

bool supports(const Problem&, const DeviceInfo& device, std::string* why_not) { return is_on(DeviceInfo::Kind::cpu, device, why_not); }

Config configure(const Problem& problem, const DeviceInfo&) { return {problem.band.rows, problem.band.cols}; }

Status run(const Problem& problem, const Config&, const Args& args) {
  if (args.stats != nullptr) *args.stats = {1, problem.multiply_adds()};
  if (problem.op == Op::attention) return attention(problem, args.attention), Status();
  if (problem.op == Op::attention_backward) return attention_backward(problem, args.attention), Status();
  const Band rows = output_band(problem.op, problem.band);
  for (index_t head = 0; head < problem.batch * problem.heads; ++head)
    for (index_t part = 0; part < dilated_parts(rows, problem.dilation_of(head % problem.heads)); ++part) {
      const Task task = task_of(problem, args, head, part);
      const auto elements = [&](const Matrix& m) { return Elements{m, problem.dtype}; };
      evaluate(problem.op, {task.band, problem.dim, problem.fill, elements(task.x), elements(task.y), elements(task.out)});
    }
  return {};
}

}  // namespace window_matmul::reference
