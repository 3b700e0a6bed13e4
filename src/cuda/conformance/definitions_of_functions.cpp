// src/cuda/conformance/definitions_of_functions.cpp: what the functions of one number, and the smallest loads, must give.
#include <cmath>
#include <limits>

#include "cuda/conformance/bytes.hpp"

namespace window_matmul::cuda::conformance {
namespace {

template <class T, int Low, int High>
void numbers_between(Random& random, std::byte* in, std::size_t bytes) {
  std::uniform_real_distribution<double> number(Low, High);
  for (int i = 0; i < static_cast<int>(bytes / sizeof(T)); ++i) put(in, i, static_cast<T>(number(random)));
}
template <class T, int Low, int High>
void exponents(Random& random, std::byte* in, std::size_t bytes) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  const T special[] = {T(0), -T(0), kInf, -kInf, T(1), T(2 * High), T(4 * Low)};
  std::uniform_real_distribution<double> number(Low, High), small(-2, 2);
  const int count = static_cast<int>(bytes / sizeof(T));
  for (int i = 0; i < count; ++i) put(in, i, i < 7 ? special[i] : static_cast<T>(i % 2 == 0 ? number(random) : small(random)));
}
template <class T>
void positive_numbers(Random& random, std::byte* in, std::size_t bytes) {
  std::uniform_real_distribution<double> exponent(-100, 100);
  for (int i = 0; i < static_cast<int>(bytes / sizeof(T)); ++i) put(in, i, static_cast<T>(std::exp2(exponent(random))));
}
template <class T>
void pairs_with_nan(Random& random, std::byte* in, std::size_t bytes) {
  numbers_between<T, -4, 4>(random, in, bytes);
  for (int n = 0; n < 32; ++n) put(in, static_cast<int>(random() % 256) * 2 + n % 2, std::numeric_limits<T>::quiet_NaN());
}

template <class T, long double (*F)(long double)>
void function(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 256; ++i) put(out, i, static_cast<T>(F(static_cast<long double>(get<T>(in, i)))));
}
template <class T>
void larger_of_two(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 256; ++i) {
    const T a = get<T>(in, 2 * i), b = get<T>(in, 2 * i + 1);
    put(out, i, a != a || a < b ? b : a);
  }
}
void bytes_as_words(const std::byte* in, std::byte* out) {
  for (int i = 0; i < 256; ++i) put(out, i, static_cast<std::uint32_t>(in[i]));
}

}  // namespace

// Errors are those that the CUDA manual states of expf (2 units), exp, exp2, logf, log and tanh (1), tanhf and ex2.approx (2); the CPU's
// add less than 1.
std::vector<Definition> with_functions(std::vector<Definition> all) {
  const Definition functions[] = {
      {"exponential of float32", exponents<float, -104, 90>, function<float, std::exp>, 3, 4},
      {"exponential of float64", exponents<double, -746, 712>, function<double, std::exp>, 2, 8},
      {"power_of_two of float32", exponents<float, -126, 120>, function<float, std::exp2>, 3, 4},
      {"power_of_two of float64", exponents<double, -1020, 1020>, function<double, std::exp2>, 2, 8},
      {"logarithm of float32", positive_numbers<float>, function<float, std::log>, 2, 4},
      {"logarithm of float64", positive_numbers<double>, function<double, std::log>, 2, 8},
      {"hyperbolic_tangent of float32", exponents<float, -12, 12>, function<float, std::tanh>, 3, 4},
      {"hyperbolic_tangent of float64", exponents<double, -24, 24>, function<double, std::tanh>, 3, 8},
      {"maximum of float32", pairs_with_nan<float>, larger_of_two<float>},
      {"maximum of float64", pairs_with_nan<double>, larger_of_two<double>},
      {"load_byte", any_bits, bytes_as_words},
  };
  all.insert(all.end(), std::begin(functions), std::end(functions));
  return all;
}

}  // namespace window_matmul::cuda::conformance
