// examples/cpp/main.cpp: six tokens attend to themselves and to the two before them.
#include <window_matmul/window_matmul.hpp>

#include <cmath>
#include <cstdio>

using namespace window_matmul;

int main() {
  constexpr index_t L = 6, D = 4, W = 3;
  float x[L * D], s[L * W], p[L * W], o[L * D];  // tokens; scores and probabilities, a column for each of a query's W keys; output
  for (int i = 0; i < L * D; ++i) x[i] = std::sin(static_cast<float>(i));
  const Window window{.left = W - 1, .right = 0};
  const auto tokens = TensorView::contiguous(x, DType::f32, {L, D}), output = TensorView::contiguous(o, DType::f32, {L, D});
  const auto scores = TensorView::contiguous(s, DType::f32, {L, W}), probabilities = TensorView::contiguous(p, DType::f32, {L, W});

  Status status = band_out(window, tokens, tokens.transposed(), scores);
  if (status.ok()) status = window_softmax(window, L, scores, probabilities);
  if (status.ok()) status = band_in(window, probabilities, tokens, output);
  if (!status.ok()) return std::fprintf(stderr, "%s\n", status.message().c_str()), 1;
  for (index_t i = 0; i < L * D; ++i) std::printf("%8.5f%c", static_cast<double>(o[i]), i % D == D - 1 ? '\n' : ' ');
}
