// src/scale.hpp: whether scale and softcap are such that products must be taken with care for the range of numbers.
#pragma once

#include <cmath>

namespace window_matmul {

// Otherwise neither the factor of the queries nor a sum without the scale leaves the range of any type.
inline bool is_extreme(double scale, double softcap) {
  const auto outside = [](double x, int exponent) {
    return x != 0 && (std::fabs(x) < std::ldexp(1, -exponent) || std::fabs(x) > std::ldexp(1, exponent));
  };
  return outside(scale, 40) || outside(softcap, 100) || (softcap > 0 && outside(scale / softcap, 100));
}

}  // namespace window_matmul
