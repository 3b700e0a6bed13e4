// tests/words/dot_pairs.hpp: the word `dot_pairs`, as the emulation on AVX2 has it and as the processor does.
#pragma once

#include "half.hpp"

namespace window_matmul::testing_tools {

using DotPairs = void(const Pair (&a)[16], const Pair (&b)[16], const float (&c)[16], float (&to)[16]);
DotPairs emulated_dot_pairs;  // needs AVX2
DotPairs dot_pairs;  // needs AVX-512 BF16

}  // namespace window_matmul::testing_tools
