// tests/words/emulated_dot_pairs.cpp: `dot_pairs` of src/cpu/simd/avx512bf16_emulated.hpp, compiled for what it needs.
#include "cpu/simd/avx512bf16_emulated.hpp"
#include "dot_pairs.hpp"

namespace window_matmul::testing_tools {

void emulated_dot_pairs(const Pair (&a)[16], const Pair (&b)[16], const float (&c)[16], float (&to)[16]) {
  using S = cpu::Avx512Bf16Emulated<float>;
  S::store(to, S::dot_pairs(S::load(a), S::load(b), S::load(c)));
}

}  // namespace window_matmul::testing_tools
