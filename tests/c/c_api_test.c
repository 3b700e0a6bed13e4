/* tests/c/c_api_test.c: the C interface, from C: numbers by hand, gradients by differences, and what is refused with which words. */
#include <window_matmul/c_api.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

static int failures;

static void check(int ok, const char* what) {
  if (ok) return;
  printf("%s (the last error is '%s')\n", what, wm_last_error());
  ++failures;
}
#define CHECK(condition) check((condition), #condition)

/* That a call is refused with this number, and that its text has these words. */
static void refused(int status, int expected, const char* words) {
  if (status == expected && strstr(wm_last_error(), words)) return;
  printf("status %d and '%s' instead of %d and '%s'\n", status, wm_last_error(), expected, words);
  ++failures;
}

static wm_tensor tensor(const void* data, int32_t dtype, int32_t ndim, int64_t a, int64_t b, int64_t c, int64_t d) {
  const int64_t shape[] = {a, b, c, d};
  return wm_contiguous(data, dtype, ndim, shape);
}

static void bands(void) {
  const double x[] = {1, 2, 3, 4, 5, 6, 7, 8},
               scores[] = {0, 5, 11, 11, 25, 39, 39, 61, 83, 83, 113, 0}; /* of x with itself, one key on each side */
  double a[12], o[8], c[8], p[12], d[12];
  const wm_window window = {.left = 1, .right = 1};
  const wm_tensor q = tensor(x, WM_FLOAT64, 2, 4, 2, 0, 0), k = wm_transposed(q), band = tensor(a, WM_FLOAT64, 2, 4, 3, 0, 0);
  CHECK(wm_band_out(&window, &q, &k, 0, &band) == WM_OK && memcmp(a, scores, sizeof a) == 0);
  CHECK(wm_last_error()[0] == '\0');
  for (int i = 0; i < 12; ++i) a[i] = 1;
  const wm_tensor sums = tensor(o, WM_FLOAT64, 2, 4, 2, 0, 0), back = tensor(c, WM_FLOAT64, 2, 4, 2, 0, 0);
  const double neighbours[] = {4, 6, 9, 12, 15, 18, 12, 14};
  CHECK(wm_band_in(&window, &band, &q, &sums) == WM_OK && memcmp(o, neighbours, sizeof o) == 0);
  CHECK(wm_band_in_transposed(&window, &band, &q, &back) == WM_OK && memcmp(c, neighbours, sizeof c) == 0); /* ones: symmetric */
  const wm_tensor probabilities = tensor(p, WM_FLOAT64, 2, 4, 3, 0, 0), gradient = tensor(d, WM_FLOAT64, 2, 4, 3, 0, 0);
  CHECK(wm_window_softmax(&window, 4, &band, &probabilities) == WM_OK && p[0] == 0 && p[1] == 0.5 && p[2] == 0.5 && p[11] == 0);
  CHECK(wm_window_softmax_backward(&window, 4, &probabilities, &probabilities, &gradient) == WM_OK && fabs(d[4]) < 1e-15);
}

static const wm_window kCausal = {.left = 2, .right = 0};

/* sum of out * t and of lse over a call with q, k, v of (1, 2, 5, 3), one head of keys. */
static double loss(const double* q, const double* k, const double* v, const double* bias, const double* t) {
  double out[30], lse[10], sum = 0;
  const wm_tensor tq = tensor(q, WM_FLOAT64, 4, 1, 2, 5, 3), tk = tensor(k, WM_FLOAT64, 4, 1, 1, 5, 3),
                  tv = tensor(v, WM_FLOAT64, 4, 1, 1, 5, 3);
  const wm_tensor to = tensor(out, WM_FLOAT64, 4, 1, 2, 5, 3), tl = tensor(lse, WM_FLOAT64, 3, 1, 2, 5, 0),
                  tb = tensor(bias, WM_FLOAT64, 2, 2, 3, 0, 0);
  wm_attention_options options = WM_ATTENTION_OPTIONS_INIT;
  options.softcap = 2, options.bias = &tb;
  CHECK(wm_window_attention(&kCausal, &tq, &tk, &tv, &options, &to, &tl) == WM_OK);
  for (int i = 0; i < 30; ++i) sum += out[i] * t[i];
  for (int i = 0; i < 10; ++i) sum += lse[i];
  return sum;
}

static void gradients(void) {
  double x[30 + 15 + 15 + 6], g[30 + 15 + 15 + 6], t[30], out[30], lse[10], ones[10];
  for (int i = 0; i < 66; ++i) x[i] = sin(i * 1.7);
  for (int i = 0; i < 30; ++i) t[i] = cos(i);
  for (int i = 0; i < 10; ++i) ones[i] = 1;
  double *q = x, *k = x + 30, *v = x + 45, *bias = x + 60;
  const wm_tensor tq = tensor(q, WM_FLOAT64, 4, 1, 2, 5, 3), tk = tensor(k, WM_FLOAT64, 4, 1, 1, 5, 3),
                  tv = tensor(v, WM_FLOAT64, 4, 1, 1, 5, 3);
  const wm_tensor to = tensor(out, WM_FLOAT64, 4, 1, 2, 5, 3), tl = tensor(lse, WM_FLOAT64, 3, 1, 2, 5, 0),
                  tb = tensor(bias, WM_FLOAT64, 2, 2, 3, 0, 0);
  const wm_tensor dq = tensor(g, WM_FLOAT64, 4, 1, 2, 5, 3), dk = tensor(g + 30, WM_FLOAT64, 4, 1, 1, 5, 3);
  const wm_tensor dv = tensor(g + 45, WM_FLOAT64, 4, 1, 1, 5, 3), db = tensor(g + 60, WM_FLOAT64, 2, 2, 3, 0, 0);
  const wm_tensor d_out = tensor(t, WM_FLOAT64, 4, 1, 2, 5, 3), d_lse = tensor(ones, WM_FLOAT64, 3, 1, 2, 5, 0);
  wm_attention_options options = WM_ATTENTION_OPTIONS_INIT;
  options.softcap = 2, options.bias = &tb;
  wm_attention_gradients wanted = WM_ATTENTION_GRADIENTS_INIT;
  wanted.d_q = &dq, wanted.d_k = &dk, wanted.d_v = &dv, wanted.d_bias = &db;
  CHECK(wm_window_attention(&kCausal, &tq, &tk, &tv, &options, &to, &tl) == WM_OK);
  CHECK(wm_window_attention_backward(&kCausal, &tq, &tk, &tv, &options, &to, &tl, &d_out, &d_lse, &wanted) == WM_OK);
  /* Central differences by h = 1e-5 err by h^2 times a third derivative, and by 60 numbers' rounding of 1e-16 over h: below 1e-8. */
  for (int i = 0; i < 66; ++i) {
    const double h = 1e-5, here = x[i];
    x[i] = here + h;
    const double above = loss(q, k, v, bias, t);
    x[i] = here - h;
    const double below = loss(q, k, v, bias, t);
    x[i] = here;
    CHECK(fabs((above - below) / (2 * h) - g[i]) < 1e-8);
  }
}

static void threads(void) {
  enum { kLength = 2048, kDim = 32 };
  static float x[kLength * kDim], one[kLength * kDim], many[kLength * kDim];
  for (int i = 0; i < kLength * kDim; ++i) x[i] = sinf((float)i);
  const wm_window window = {.left = 64, .right = 64};
  const wm_tensor t = tensor(x, WM_FLOAT32, 4, 1, 1, kLength, kDim), to_one = tensor(one, WM_FLOAT32, 4, 1, 1, kLength, kDim);
  const wm_tensor to_many = tensor(many, WM_FLOAT32, 4, 1, 1, kLength, kDim);
  CHECK(wm_get_threads() >= 1);
  CHECK(wm_set_threads(1) == WM_OK && wm_get_threads() == 1 && wm_window_attention(&window, &t, &t, &t, NULL, &to_one, NULL) == WM_OK);
  CHECK(wm_set_threads(5) == WM_OK && wm_get_threads() == 5 && wm_window_attention(&window, &t, &t, &t, NULL, &to_many, NULL) == WM_OK);
  CHECK(memcmp(one, many, sizeof one) == 0);
  refused(wm_set_threads(-1), WM_INVALID_ARGUMENT, "threads is -1; it needs to be from 0");
  CHECK(wm_set_threads(0) == WM_OK);
}

static void refusals_of_tensors(void) {
  float x[64] = {0}, a[32];
  const wm_window window = {.left = 1, .right = 1};
  wm_tensor q = tensor(x, WM_FLOAT32, 2, 4, 2, 0, 0);
  const wm_tensor k = wm_transposed(q), band = tensor(a, WM_FLOAT32, 2, 4, 3, 0, 0);
  refused(wm_band_out(&window, NULL, &k, 0, &band), WM_INVALID_ARGUMENT, "q is null");
  refused(wm_band_out(NULL, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "window is null");
  refused(wm_band_out(&window, &q, &k, NAN, &band), WM_INVALID_ARGUMENT, "fill is NaN");
  refused(wm_band_out(&window, &q, &q, 0, &band), WM_INVALID_ARGUMENT, "k (4, 2): dim -2 needs to be 2");
  q.dtype = WM_BOOL;
  refused(wm_band_out(&window, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "q is bool; it needs to be float32");
  q.dtype = 99;
  refused(wm_band_out(&window, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "q is of dtype 99");
  q.dtype = WM_FLOAT32, q.device = 2;
  refused(wm_band_out(&window, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "q is on device 2; it needs to be WM_CPU");
  q.device = WM_CPU, q.ndim = 17;
  refused(wm_band_out(&window, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "q has 17 dims");
  q.ndim = 2, q.data = NULL;
  refused(wm_band_out(&window, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "q (4, 2) has no memory");
  q.data = (char*)x + 1;
  refused(wm_band_out(&window, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "no multiple of its elements' 4 bytes");
  q.data = x;
  wm_tensor folded = band;
  folded.strides[0] = 0;
  refused(wm_band_out(&window, &q, &k, 0, &folded), WM_INVALID_ARGUMENT, "a overlaps itself");
  const int64_t dilation[] = {0};
  const wm_window dilated = {.left = 1, .right = 1, .dilation = dilation, .num_dilations = 1};
  const wm_window nothing = {.num_dilations = 2}, negative = {.left = -1};
  refused(wm_band_out(&dilated, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "dilation is 0; it needs to be from 1");
  refused(wm_band_out(&nothing, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "dilation is null beside num_dilations of 2");
  refused(wm_band_out(&negative, &q, &k, 0, &band), WM_INVALID_ARGUMENT, "left is -1; it needs to be at least 0");
}

static void refusals_of_attention(void) {
  float x[64] = {0}, o[64];
  const wm_tensor t = tensor(x, WM_FLOAT32, 4, 2, 1, 4, 2), out = tensor(o, WM_FLOAT32, 4, 2, 1, 4, 2),
                  flat = tensor(x, WM_FLOAT32, 2, 4, 2, 0, 0);
  const unsigned char mask[4] = {1, 1, 1, 1};
  const int64_t lengths[] = {4, 5};
  const wm_tensor narrow = tensor(mask, WM_BOOL, 2, 1, 4, 0, 0), entries = tensor(lengths, WM_INT64, 1, 2, 0, 0, 0);
  const wm_tensor empty = tensor(lengths, WM_INT64, 1, 0, 0, 0, 0), floats = tensor(x, WM_FLOAT32, 1, 2, 0, 0, 0);
  wm_attention_options options = WM_ATTENTION_OPTIONS_INIT;
  refused(wm_window_attention(&kCausal, &flat, &t, &t, NULL, &out, NULL), WM_INVALID_ARGUMENT, "q has 2 dims");
  options.key_mask = &narrow;
  refused(wm_window_attention(&kCausal, &t, &t, &t, &options, &out, NULL), WM_INVALID_ARGUMENT,
          "key_mask is (1, 4); it needs to be (B, Lk), here (2, 4)");
  options.key_mask = NULL, options.key_lengths = &entries;
  refused(wm_window_attention(&kCausal, &t, &t, &t, &options, &out, NULL), WM_INVALID_ARGUMENT,
          "key_lengths[1] is 5; it needs to be from 0 to Lk, 4");
  options.key_lengths = &empty;
  refused(wm_window_attention(&kCausal, &t, &t, &t, &options, &out, NULL), WM_INVALID_ARGUMENT, "key_lengths is (0); it needs to be (B,)");
  options.key_lengths = &floats;
  refused(wm_window_attention(&kCausal, &t, &t, &t, &options, &out, NULL), WM_INVALID_ARGUMENT,
          "key_lengths is float32; it needs to be int32 or int64");
  options.key_lengths = NULL, options.size = 0;
  refused(wm_window_attention(&kCausal, &t, &t, &t, &options, &out, NULL), WM_INVALID_ARGUMENT,
          "size is 0; begin with WM_ATTENTION_OPTIONS_INIT");
  refused(wm_window_attention_backward(&kCausal, &t, &t, &t, NULL, &out, &out, &out, NULL, NULL), WM_INVALID_ARGUMENT, "gradients is null");
}

/* A program that was compiled with a header of another age. */
static void other_ages(void) {
  float x[8] = {0}, o[8];
  const wm_tensor t = tensor(x, WM_FLOAT32, 4, 1, 1, 4, 2), out = tensor(o, WM_FLOAT32, 4, 1, 1, 4, 2);
  struct {
    wm_attention_options known;
    double newer;
  } newer = {.known = WM_ATTENTION_OPTIONS_INIT};
  newer.known.size = sizeof newer;
  CHECK(wm_window_attention(&kCausal, &t, &t, &t, &newer.known, &out, NULL) == WM_OK);
  newer.newer = 1;
  refused(wm_window_attention(&kCausal, &t, &t, &t, &newer.known, &out, NULL), WM_INVALID_ARGUMENT, "is not 0");
  newer.known.size = offsetof(wm_attention_options, softcap);
  newer.known.softcap = -1; /* behind what it says it has */
  CHECK(wm_window_attention(&kCausal, &t, &t, &t, &newer.known, &out, NULL) == WM_OK);
}

int main(void) {
  bands();
  gradients();
  threads();
  refusals_of_tensors();
  refusals_of_attention();
  other_ages();
  CHECK(strlen(wm_version()) >= 5);
  return failures != 0;
}
