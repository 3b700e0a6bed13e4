// src/task.hpp: a problem taken apart into plain two-dimensional ones without dilation: one for each head and dilation part.
#pragma once

#include "window_matmul/problem.hpp"

namespace window_matmul {

// Element (r, c) at address + (r * row_stride + c * col_stride) elements. A number, not a pointer: a part without columns may begin
// anywhere.
struct Matrix {
  std::uintptr_t address = 0;
  index_t row_stride = 0, col_stride = 0;
};

// One band of one head. Its rows are the rows of `out`; band storage keeps its slots.
struct Task {
  Band band;    // queries x keys, whatever the op
  Matrix x, y;  // as in the table of Op, but the keys of band_out lie row by row: y (Lk, N)
  Matrix out;
};

constexpr bool writes_keys(Op op) { return op == Op::band_in_transposed; }
constexpr bool has_second_operand(Op op) { return op != Op::softmax; }

// The band whose rows are the rows of the output.
constexpr Band output_band(Op op, const Band& band) { return writes_keys(op) ? band.transposed() : band; }

// The two matrices of head `index` (0 <= index < batch * heads), before dilation.
Matrix matrix_of(const TensorView& tensor, index_t index);

// Part `part` of head `index`; parts are 0 .. dilated_parts(output_band(op, band), dilation) - 1.
Task task_of(const Problem& problem, const Args& args, index_t index, index_t part);

}  // namespace window_matmul
