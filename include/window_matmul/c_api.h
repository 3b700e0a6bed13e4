/* include/window_matmul/c_api.h: the operators for C, and for every language that calls C: libwindow_matmul.so. */
/*
 * Letters: B batch, H heads, Hkv key/value heads (H a multiple of Hkv), Lq queries, Lk keys, N and D head dim, Dv value dim, W = left + 1 +
 * right. Query i sees the keys j(i, c) = i + shift + (c - left) * dilation for c = 0 .. W - 1, as far as they exist; c is its "slot".
 *
 * Every call returns WM_OK or says why not, in a number and in wm_last_error(), which names the argument, what it got and what it needs. A
 * call that is refused has written nothing. Nothing is allocated for the caller, nothing throws or aborts. Tensors are in the memory of the
 * CPU; inputs have any strides and are only read; outputs are written in full and overlap neither inputs nor themselves. Calls may be made
 * from any threads at once. Results are equal bit for bit for every number of threads.
 */
#ifndef WINDOW_MATMUL_C_API_H
#define WINDOW_MATMUL_C_API_H

#include <stddef.h>
#include <stdint.h>

#define WM_API __attribute__((visibility("default")))

/* A struct with its `size`, and 0 in all else; what -Wextra says of the rest is not said where a field has its name. */
#if defined(__cplusplus) && __cplusplus < 202002L
#define WM_SIZED(type) {sizeof(type)}
#else
#define WM_SIZED(type) {.size = sizeof(type)}
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
  WM_OK = 0,
  WM_INVALID_ARGUMENT = 1,
  WM_UNSUPPORTED = 2, /* no kernel takes this: the text lists each one with its reason */
  WM_OUT_OF_MEMORY = 3,
  WM_FAILED = 4 /* whatever else; a defect of the library */
};

/* The text of this thread's last call, "" where it worked; until the thread's next call. */
WM_API const char* wm_last_error(void);
WM_API const char* wm_version(void); /* "0.1.0" */

/* How many threads a call may use, in the whole process; 0, the default: the environment's WINDOW_MATMUL_THREADS, else as many as there are
   processors for this process. */
WM_API int wm_set_threads(int64_t threads);
WM_API int64_t wm_get_threads(void); /* that number, at least 1 */

/* ---- tensors ---- */

enum { WM_MAX_DIMS = 16 };

enum { WM_FLOAT64 = 0, WM_FLOAT32 = 1, WM_BFLOAT16 = 2, WM_FLOAT16 = 3, WM_INT32 = 4, WM_INT64 = 5, WM_BOOL = 6 /* bytes: 0 is false */ };

enum { WM_CPU = 0 };

typedef struct wm_tensor {
  void* data; /* element (0, ..., 0) */
  int32_t dtype;
  int32_t device; /* WM_CPU: there are no others yet */
  int32_t ndim;
  int64_t shape[WM_MAX_DIMS];
  int64_t strides[WM_MAX_DIMS]; /* in elements; 0 and negative ones are fine */
} wm_tensor;

/* A dense row-major tensor, and the same memory with the last two dims swapped. With a wrong `ndim` they are what calls refuse. */
WM_API wm_tensor wm_contiguous(const void* data, int32_t dtype, int32_t ndim, const int64_t* shape);
WM_API wm_tensor wm_transposed(wm_tensor tensor);

/* ---- windows ---- */

#define WM_UNBOUNDED ((int64_t)1 << 60) /* a side that sees everything; of fused attention */

typedef struct wm_window {
  int64_t left, right; /* keys before and after the aligned one; at least 0 */
  const int64_t* dilation; /* `num_dilations` of them, each at least 1: none for 1, one for all heads, or one a head (dim -3) */
  int64_t num_dilations;
  const int64_t* query_offset; /* the key aligned with query 0; null: Lk - Lq, so that the last query and the last key are aligned */
} wm_window;

/* ---- operators on bands; float64, float32, bfloat16 or float16, one for all; leading dims broadcast ---- */

/* a[i,c] = sum_n q[i,n] k[n, j(i,c)], `fill` (anything but NaN) where that key does not exist. q (..., Lq, N), k (..., N, Lk), a (..., Lq,
 * W) */
WM_API int wm_band_out(const wm_window* window, const wm_tensor* q, const wm_tensor* k, double fill, const wm_tensor* a);

/* o[i,n] = sum_c a[i,c] v[j(i,c), n] over the keys that exist. a (..., Lq, W), v (..., Lk, N), o (..., Lq, N) */
WM_API int wm_band_in(const wm_window* window, const wm_tensor* a, const wm_tensor* v, const wm_tensor* o);

/* o[j,n] = sum of a[i,c] x[i,n] over the (i,c) with j(i,c) = j. a (..., Lq, W), x (..., Lq, N), o (..., Lk, N)
   The gradients of each of these three are calls of the other two. */
WM_API int wm_band_in_transposed(const wm_window* window, const wm_tensor* a, const wm_tensor* x, const wm_tensor* o);

/* p[i,:] = softmax over the slots of a[i,:] whose key exists, 0 in the others. a, p (..., Lq, W); num_keys is Lk. */
WM_API int wm_window_softmax(const wm_window* window, int64_t num_keys, const wm_tensor* a, const wm_tensor* p);

/* d[i,c] = p[i,c] (g[i,c] - sum_c' p[i,c'] g[i,c']) where the key exists, 0 elsewhere: from the gradient g of p that of a. */
WM_API int wm_window_softmax_backward(const wm_window* window, int64_t num_keys, const wm_tensor* g, const wm_tensor* p,
                                      const wm_tensor* d);

/* ---- fused attention: softmax(scale q kT) v over each query's window; memory does not grow with it ---- */

/* Begin with WM_ATTENTION_OPTIONS_INIT: `size` says which of the options the program knows. Null or 0: not used. */
typedef struct wm_attention_options {
  size_t size;
  const double* scale; /* null: 1 / sqrt(D) */
  double softcap; /* above 0: scores become softcap tanh(score / softcap), before the bias */
  const wm_tensor* bias; /* (H, W) or (B, H, Lq, W), q's dtype or float32; added to the scores; -inf hides the key */
  const wm_tensor* sinks; /* (H,), q's dtype or float32: one more logit of the denominator */
  const wm_tensor* key_mask; /* (B, Lk) bool: the keys that may be seen */
  const wm_tensor* global_mask; /* (B, Lk) bool: keys that every query sees */
  int64_t global_tokens; /* the same for the first so many keys */
  double dropout_p; /* from 0 to 1 */
  uint64_t dropout_seed;
  const wm_tensor* cu_q; /* packed sequences (B = 1): s has the queries from cu_q[s] to cu_q[s + 1]; int32 or int64 */
  const wm_tensor* cu_k; /* likewise its keys */
  const wm_tensor* key_lengths; /* (B,) int32 or int64: how many keys each entry has */
  const wm_tensor* query_offsets; /* (B,) int32 or int64: a window's query_offset for each entry */
  /* Of a part of a larger call: where its sequences, queries (B, Lq) and keys (Lk) stand there, int64, for dropout to draw as it would. */
  const int64_t* dropout_sequences;
  const int64_t* dropout_queries;
  const int64_t* dropout_keys;
} wm_attention_options;
#define WM_ATTENTION_OPTIONS_INIT WM_SIZED(wm_attention_options)

/* q (B, H, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, Dv); options may be null. out (B, H, Lq, Dv), q's dtype, or float32 beside bfloat16
   and float16; lse (B, H, Lq), float32 (float64 for float64), the natural log-sum-exp of the scores without the sink, may be null. */
WM_API int wm_window_attention(const wm_window* window, const wm_tensor* q, const wm_tensor* k, const wm_tensor* v,
                               const wm_attention_options* options, const wm_tensor* out, const wm_tensor* lse);

/* Each like its input; null: not computed. Begin with WM_ATTENTION_GRADIENTS_INIT. */
typedef struct wm_attention_gradients {
  size_t size;
  const wm_tensor *d_q, *d_k, *d_v, *d_bias, *d_sinks;
} wm_attention_gradients;
#define WM_ATTENTION_GRADIENTS_INIT WM_SIZED(wm_attention_gradients)

/* out and lse are those of the call above with the same arguments; d_out like out; d_lse like lse, or null for zeros. */
WM_API int wm_window_attention_backward(const wm_window* window, const wm_tensor* q, const wm_tensor* k, const wm_tensor* v,
                                        const wm_attention_options* options, const wm_tensor* out, const wm_tensor* lse,
                                        const wm_tensor* d_out, const wm_tensor* d_lse, const wm_attention_gradients* gradients);

#ifdef __cplusplus
}
#endif

#endif
