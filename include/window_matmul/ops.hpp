// include/window_matmul/ops.hpp: the operators. Each validates, selects a kernel, configures it and runs it.
//
// Tensors have two dims and any leading (batch) dims, which broadcast as torch.matmul's do; strides are free. Outputs have the broadcast
// leading dims, are written in full and must not overlap inputs or themselves. All tensors of a call have one dtype. Sums are taken in fp32
// (fp64 for fp64). Results do not depend on the executor, bit for bit. Errors come back as Status; nothing throws but std::bad_alloc.
// On a GPU a call only enqueues its kernels on a stream; what goes wrong there later is not in its Status.
#pragma once

#include <optional>
#include <vector>

#include "window_matmul/problem.hpp"
#include "window_matmul/status.hpp"

namespace window_matmul {

struct Window {
  index_t left = 0, right = 0;  // keys before and after the aligned one; at least 0
  std::vector<index_t> dilation = {};  // empty: 1; one value: all heads; else one a head (dim -3); each at least 1
  std::optional<index_t> query_offset{};  // the key aligned with query 0; by default Lk - Lq (the last query and the last key align)
};

struct RunOptions {
  Executor executor{};
  const char* backend = nullptr;  // a row of the kernel table; by default WINDOW_MATMUL_BACKEND, else the best that fits
  RunStats* stats = nullptr;
  const DeviceInfo* device = nullptr;  // where the tensors are; by default this CPU. A GPU must be the current one
  void* stream = nullptr;  // of a GPU: the cudaStream_t
  DeviceMemory memory = {};  // of a GPU, for kernels that need more than their results; some of fused attention do
  Precision precision = Precision::highest;  // of fp32 products on a GPU; a CPU has no other
};

// a[i,c] = sum_n q[i,n] k[n, j(i,c)]; slots whose key does not exist get `fill` (anything but NaN).
// q (..., Lq, N), k (..., N, Lk), a (..., Lq, W).
Status band_out(const Window&, const TensorView& q, const TensorView& k, const TensorView& a, double fill = 0, const RunOptions& = {});

// o[i,n] = sum_c a[i,c] v[j(i,c), n]; slots whose key does not exist are not read.  a (..., Lq, W), v (..., Lk, N), o (..., Lq, N).
Status band_in(const Window&, const TensorView& a, const TensorView& v, const TensorView& o, const RunOptions& = {});

// o[j,n] = sum of a[i,c] x[i,n] over the (i,c) with j(i,c) = j.  a (..., Lq, W), x (..., Lq, N), o (..., Lk, N).
Status band_in_transposed(const Window&, const TensorView& a, const TensorView& x, const TensorView& o, const RunOptions& = {});

// p[i,:] = softmax of the slots of a[i,:] whose key exists, 0 elsewhere; a row without any key, or of -inf alone, gives 0.
// a and p (..., Lq, W); num_keys is Lk.
Status window_softmax(const Window&, index_t num_keys, const TensorView& a, const TensorView& p, const RunOptions& = {});

// d[i,c] = p[i,c] (g[i,c] - sum_c' p[i,c'] g[i,c']) over the slots whose key exists, 0 elsewhere. All (..., Lq, W).
Status window_softmax_backward(const Window&, index_t num_keys, const TensorView& g, const TensorView& p, const TensorView& d,
                               const RunOptions& = {});

}  // namespace window_matmul
