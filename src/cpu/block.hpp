// src/cpu/block.hpp: what the dispatcher and the kernels of an instruction set agree on. Plain data: included by files of every ISA.
#pragma once

#include "window_matmul/band.hpp"

namespace window_matmul::cpu {

struct Operand {  // element (r, c) at address + (r * row_stride + c * col_stride) elements; (0, 0) itself need not exist
  std::uintptr_t address = 0;
  index_t row_stride = 0, col_stride = 0;
};

// One work item: some output rows of one band. The band is seen from the output: its rows are the rows of `out`.
struct Block {
  Band band;
  Range rows;          // the output rows of this item
  Operand x;  // band_out: q (row, n).  band_in, both ways: band storage in (row, column) coordinates.  Else band storage (row, slot)
  Operand y;  // band_out: k (key, n).  band_in: the matrix that is summed (column, n).  softmax_backward: band storage (row, slot)
  Operand out;  // band_in: (row, n).  Else band storage (row, slot)
  index_t dim;  // N
  index_t block_keys;  // columns of the band that are packed at a time
  double fill;
  void* scratch;  // scratch_bytes() of it, 64-byte aligned
  index_t* multiply_adds;  // counts those executed
};

using BlockKernel = void (*)(const Block&);
struct AttentionBlock;  // attention/block.hpp
using AttentionKernel = void (*)(const AttentionBlock&);

// What one instruction set offers. First index of `run`: Op, with band_in and band_in_transposed sharing a kernel. Second: DType.
struct IsaKernels {
  enum { kBandOut, kBandIn, kSoftmax, kSoftmaxBackward, kKernels };
  BlockKernel run[kKernels][4];
  AttentionKernel attention[4], attention_backward[4];  // by DType
  // Runs `steps` rounds of independent multiply-adds on registers; returns how many multiply-adds that were.
  index_t (*spin_f32)(index_t steps);
  index_t (*spin_f64)(index_t steps);
};

// Sizes that scratch is laid out by: the most of any instruction set, so that one formula serves all.
inline constexpr index_t kMaxLanes = 16, kMaxTileRows = 8;
inline constexpr index_t kPackedColumns = 256;  // columns of the summed matrix (band_in) that are packed at a time
inline constexpr index_t kPackedDepth = 1024;  // of the head dim (band_out), likewise
inline constexpr index_t kGroupRows = 48, kGroupStride = kGroupRows + kMaxLanes;  // of a transposed band that are packed together
inline constexpr index_t kCacheLine = 64;

const IsaKernels& scalar_kernels();
const IsaKernels& avx2_kernels();
const IsaKernels& avx512_kernels();
const IsaKernels& avx512bf16_kernels();  // of bf16 alone
const IsaKernels& amx_kernels();  // of bf16, and of fused attention alone

}  // namespace window_matmul::cpu
