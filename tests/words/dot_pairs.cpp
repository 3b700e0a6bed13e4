// tests/words/dot_pairs.cpp: `dot_pairs` of src/cpu/simd/avx512bf16.hpp, compiled for what it needs.
#include "dot_pairs.hpp"
#include "cpu/simd/avx512bf16.hpp"

namespace window_matmul::testing_tools {

void dot_pairs(const Pair (&a)[16], const Pair (&b)[16], const float (&c)[16], float (&to)[16]) {
  using S = cpu::Avx512Bf16<float>;
  S::store(to, S::dot_pairs(S::load(a), S::load(b), S::load(c)));
}

}  // namespace window_matmul::testing_tools
