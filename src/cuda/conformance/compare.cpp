// src/cuda/conformance/compare.cpp: two outputs of a little kernel, number by number.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cuda/conformance/definitions.hpp"

namespace window_matmul::cuda::conformance {
namespace {

template <class T>
T get(const std::byte* from, std::size_t i) {
  T value;
  std::memcpy(&value, from + i * sizeof(T), sizeof(T));
  return value;
}

// Numbers of one format in order, as whole numbers.
template <class Signed, class T>
Signed rank(T x) {
  const auto bits = std::bit_cast<Signed>(x);
  return bits < 0 ? static_cast<Signed>(std::numeric_limits<Signed>::min() - bits) : bits;
}
template <class Signed, class T>
double ulps_between(const std::byte* a, const std::byte* b, std::size_t i) {
  const T x = get<T>(a, i), y = get<T>(b, i);
  if (std::isnan(x) || std::isnan(y)) return std::isnan(x) && std::isnan(y) ? 0 : std::numeric_limits<double>::infinity();
  const std::int64_t p = rank<Signed>(x), q = rank<Signed>(y);
  return static_cast<double>(static_cast<std::uint64_t>(std::max(p, q)) - static_cast<std::uint64_t>(std::min(p, q)));
}

}  // namespace

Difference compare(const Definition& definition, const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  Difference found{.words = a.size() / definition.word};
  for (std::size_t i = 0; i < found.words; ++i) {
    double ulps = 0;
    if (definition.ulps == 0)
      ulps = get<std::uint32_t>(a.data(), i) == get<std::uint32_t>(b.data(), i) ? 0 : std::numeric_limits<double>::infinity();
    else
      ulps = definition.word == 4 ? ulps_between<std::int32_t, float>(a.data(), b.data(), i)
                                  : ulps_between<std::int64_t, double>(a.data(), b.data(), i);
    if (ulps > definition.ulps && found.different++ == 0) found.first = i;
    found.most_ulps = std::max(found.most_ulps, ulps);
  }
  return found;
}

}  // namespace window_matmul::cuda::conformance
