// src/cuda/kernels/choice.hpp: which kernel is launched, and with what. Without the headers that nvcc would take a second to read.
#pragma once

#include "window_matmul/op.hpp"
#include "window_matmul/tensor.hpp"

namespace window_matmul::cuda {

struct Plan {  // a pure function of Problem and Device
  Op op = Op::band_out;
  DType dtype = DType::f32;
  Precision precision = Precision::highest;  // high: products of fp32 by three of TF32
  int panels = 1;                // band_in: 64 columns of the head dim are summed at a time, or 128
  int lanes = 0;                 // softmax: threads that share a row
  std::size_t shared_bytes = 0;  // of a block
  int head_dim = 0;              // attention: what D and Dv are padded to, 64, 128 or 256
  bool options = false;          // attention: any that asks something of single scores, or keys in parts
  index_t max_blocks = 0;        // of a grid; blocks take further items in turn
  friend bool operator==(const Plan&, const Plan&) = default;
};

}  // namespace window_matmul::cuda
