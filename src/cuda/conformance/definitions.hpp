// src/cuda/conformance/definitions.hpp: for each little kernel: what it reads, and what its primitive must make of that.
#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <vector>

namespace window_matmul::cuda::conformance {

using Random = std::mt19937_64;

struct Definition {
  std::string name;  // of the kernel
  void (*fill)(Random& random, std::byte* in, std::size_t bytes);
  void (*define)(const std::byte* in, std::byte* out);  // from the tables of the PTX manual, in plain C++
  // How many units in the last place two results may be apart; 0: equal bit for bit.
  int ulps = 0;
  std::size_t word = 4;  // bytes of one number of the output
};

const std::vector<Definition>& definitions();
std::vector<Definition> with_functions(std::vector<Definition> all);  // the others, and those of definitions_of_functions.cpp

// Numbers of two outputs that are further apart than the definition allows, and the largest distance in units in the last place.
struct Difference {
  std::size_t words = 0, different = 0, first = 0;
  double most_ulps = 0;
};
Difference compare(const Definition& definition, const std::vector<std::byte>& a, const std::vector<std::byte>& b);

}  // namespace window_matmul::cuda::conformance
