// src/cuda/conformance/bytes.hpp: numbers in the memory that little kernels read and write.
#pragma once

#include <cstddef>
#include <cstring>

#include "cuda/conformance/definitions.hpp"

namespace window_matmul::cuda::conformance {

template <class T>
T get(const std::byte* from, int i) {
  T value;
  std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
  return value;
}
template <class T>
void put(std::byte* to, int i, T value) {
  std::memcpy(to + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof(T));
}

inline void any_bits(Random& random, std::byte* in, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) in[i] = static_cast<std::byte>(random());
}

}  // namespace window_matmul::cuda::conformance
