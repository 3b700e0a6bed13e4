/* examples/c/main.c: six tokens attend to themselves and to the two before them: in three steps, and in one. */
#include <math.h>
#include <stdio.h>
#include <window_matmul/c_api.h>

enum { L = 6, D = 4, W = 3 };

static int failed(int status) {
  if (status != WM_OK) fprintf(stderr, "%s\n", wm_last_error());
  return status != WM_OK;
}

int main(void) {
  float x[L * D], o[L * D], fused[L * D]; /* tokens, and outputs of both ways */
  float s[L * W], p[L * W]; /* scores and probabilities, a column for each of a query's W keys */
  for (int i = 0; i < L * D; ++i) x[i] = sinf((float)i);
  const wm_window window = {.left = W - 1, .right = 0};
  const int64_t rows[] = {L, D}, band[] = {L, W};
  const wm_tensor tokens = wm_contiguous(x, WM_FLOAT32, 2, rows), keys = wm_transposed(tokens),
                  output = wm_contiguous(o, WM_FLOAT32, 2, rows);
  const wm_tensor scores = wm_contiguous(s, WM_FLOAT32, 2, band), probabilities = wm_contiguous(p, WM_FLOAT32, 2, band);
  if (failed(wm_band_out(&window, &tokens, &keys, 0, &scores))) return 1;
  if (failed(wm_window_softmax(&window, L, &scores, &probabilities))) return 1;
  if (failed(wm_band_in(&window, &probabilities, &tokens, &output))) return 1;

  const int64_t heads[] = {1, 1, L, D}; /* (batch, heads, length, dim) */
  const wm_tensor qkv = wm_contiguous(x, WM_FLOAT32, 4, heads), out = wm_contiguous(fused, WM_FLOAT32, 4, heads);
  wm_attention_options options = WM_ATTENTION_OPTIONS_INIT;
  const double scale = 1; /* the three steps above have none */
  options.scale = &scale;
  if (failed(wm_window_attention(&window, &qkv, &qkv, &qkv, &options, &out, NULL))) return 1;

  for (int i = 0; i < L * D; ++i) {
    printf("%8.5f%c", (double)o[i], i % D == D - 1 ? '\n' : ' ');
    if (fabsf(o[i] - fused[i]) > 1e-5f)
      return fprintf(stderr, "the two ways differ at %d: %g and %g\n", i, (double)o[i], (double)fused[i]), 1;
  }
  return 0;
}
