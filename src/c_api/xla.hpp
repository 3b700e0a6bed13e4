// src/c_api/xla.hpp: what libwindow_matmul.so has for XLA to call; window_matmul/compat/_jax_calls.py registers them.
//
// Attributes: "operands" and "results", the names of the buffers, those of the C interface (k of band_out: (..., Lk, N)); "window", int64:
// left, right, whether there is a query_offset, that, and the dilation; the numbers of the C interface by their names, int64 and float64.
// Options of attention that are not given are left out. dropout_seed is a buffer: two int32, the lower first.
#pragma once

#include "window_matmul/c_api.h"
#include "xla_abi.hpp"

extern "C" {

WM_API window_matmul::c_api::xla::Error* wm_xla_band_out(window_matmul::c_api::xla::CallFrame*);
WM_API window_matmul::c_api::xla::Error* wm_xla_band_in(window_matmul::c_api::xla::CallFrame*);
WM_API window_matmul::c_api::xla::Error* wm_xla_band_in_transposed(window_matmul::c_api::xla::CallFrame*);
WM_API window_matmul::c_api::xla::Error* wm_xla_window_softmax(window_matmul::c_api::xla::CallFrame*);
WM_API window_matmul::c_api::xla::Error* wm_xla_window_softmax_backward(window_matmul::c_api::xla::CallFrame*);
WM_API window_matmul::c_api::xla::Error* wm_xla_window_attention(window_matmul::c_api::xla::CallFrame*);
WM_API window_matmul::c_api::xla::Error* wm_xla_window_attention_backward(window_matmul::c_api::xla::CallFrame*);

}  // extern "C"
