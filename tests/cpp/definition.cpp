// tests/cpp/definition.cpp: what each operator computes, in double, written from the definitions alone.
#include "definition.hpp"

namespace window_matmul::testing_tools {
namespace {

Expected& at(Numbers& numbers, index_t i) { return numbers[static_cast<std::size_t>(i)]; }

// a[i,c] = sum_n q[i,n] k[n,j(i,c)], `fill` where there is no key
Numbers band_out_of(const Head& h) {
  Numbers a(static_cast<std::size_t>(h.rows * h.width()), {rounded(h.dtype, h.fill), 0});
  h.for_each_pair([&](index_t i, index_t c, index_t j) {
    Sum sum;
    for (index_t n = 0; n < h.dim; ++n) sum.add(h.x[i * h.dim + n], h.y[n * h.cols + j]);
    at(a, i * h.width() + c) = sum.in(h.dtype);
  });
  return a;
}

Numbers rounded_sums(const std::vector<Sum>& sums, DType dtype) {
  Numbers out;
  out.reserve(sums.size());
  for (const Sum& sum : sums) out.push_back(sum.in(dtype));
  return out;
}

// o[i,n] = sum_c a[i,c] v[j(i,c),n]
Numbers band_in_of(const Head& h) {
  std::vector<Sum> o(static_cast<std::size_t>(h.rows * h.dim));
  h.for_each_pair([&](index_t i, index_t c, index_t j) {
    for (index_t n = 0; n < h.dim; ++n) o[static_cast<std::size_t>(i * h.dim + n)].add(h.x[i * h.width() + c], h.y[j * h.dim + n]);
  });
  return rounded_sums(o, h.dtype);
}

// o[j,n] = sum over (i,c) with j(i,c) = j of a[i,c] x[i,n]
Numbers band_in_transposed_of(const Head& h) {
  std::vector<Sum> o(static_cast<std::size_t>(h.cols * h.dim));
  h.for_each_pair([&](index_t i, index_t c, index_t j) {
    for (index_t n = 0; n < h.dim; ++n) o[static_cast<std::size_t>(j * h.dim + n)].add(h.x[i * h.width() + c], h.y[i * h.dim + n]);
  });
  return rounded_sums(o, h.dtype);
}

// p[i,:] = softmax over the slots with a key. The difference to the row's maximum is rounded once, which its exponential feels as many
// times over as the difference is large; exp itself, the sum of W terms and the division are allowed 8 + W roundings together.
// Numbers below the smallest normal one may become 0.
Numbers softmax_of(const Head& h) {
  Numbers p(static_cast<std::size_t>(h.rows * h.width()));
  const Format& sums = sum_format_of(h.dtype);
  std::vector<double> highest(static_cast<std::size_t>(h.rows), -kInf), total(static_cast<std::size_t>(h.rows), 0);
  h.for_each_pair([&](index_t i, index_t c, index_t) {
    double& high = highest[static_cast<std::size_t>(i)];
    const double a = h.x[i * h.width() + c];
    high = a > high || std::isnan(a) ? a : high;
  });
  h.for_each_pair([&](index_t i, index_t c, index_t) {
    const double high = highest[static_cast<std::size_t>(i)];
    total[static_cast<std::size_t>(i)] += high == -kInf ? 1 : std::exp(h.x[i * h.width() + c] - high);
  });
  h.for_each_pair([&](index_t i, index_t c, index_t) {
    const double high = highest[static_cast<std::size_t>(i)];
    if (high == -kInf) return;  // of -inf alone: 0
    const double below = high - h.x[i * h.width() + c], value = std::exp(-below) / total[static_cast<std::size_t>(i)];
    const double roundings = 8 + static_cast<double>(h.width()) + (value > 0 ? 2 * below : 0);
    at(p, i * h.width() + c) = stored(h.dtype, value, value * roundings * 2 * sums.roundoff + sums.smallest_normal);
  });
  return p;
}

// d[i,c] = p[i,c] (g[i,c] - sum_c' p[i,c'] g[i,c'])
Numbers softmax_backward_of(const Head& h) {
  Numbers d(static_cast<std::size_t>(h.rows * h.width()));
  std::vector<Sum> mean(static_cast<std::size_t>(h.rows));
  h.for_each_pair(
      [&](index_t i, index_t c, index_t) { mean[static_cast<std::size_t>(i)].add(h.x[i * h.width() + c], h.y[i * h.width() + c]); });
  h.for_each_pair([&](index_t i, index_t c, index_t) {
    const Sum& m = mean[static_cast<std::size_t>(i)];
    const double g = h.x[i * h.width() + c], p = h.y[i * h.width() + c];
    const double roundings = 2 * sum_format_of(h.dtype).roundoff * (std::abs(g) + std::abs(m.value));  // the subtraction, the product
    at(d, i * h.width() + c) = stored(h.dtype, p * (g - m.value), std::abs(p) * (2 * m.error(h.dtype) + 2 * roundings));
  });
  return d;
}

}  // namespace

Numbers evaluate(Op op, const Head& head) {
  switch (op) {
    case Op::band_out:
      return band_out_of(head);
    case Op::band_in:
      return band_in_of(head);
    case Op::band_in_transposed:
      return band_in_transposed_of(head);
    case Op::softmax:
      return softmax_of(head);
    case Op::softmax_backward:
      return softmax_backward_of(head);
    case Op::attention:
    case Op::attention_backward:
      break;  // attention_*.hpp
  }
  return {};
}

}  // namespace window_matmul::testing_tools
