// src/task.cpp: strides of heads and dilation parts.
#include "task.hpp"

namespace window_matmul {
namespace {

// Products modulo 2^64: those that wrap belong to rows that do not exist.
index_t times(index_t a, index_t b) { return static_cast<index_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b)); }

// Rows first, first + step, ...: `rows` of them. One row alone needs no stride, which may be beyond any address.
Matrix strided_rows(const Matrix& m, DType dtype, index_t first, index_t step, index_t rows) {
  const index_t skipped = times(times(first, m.row_stride), static_cast<index_t>(size_of(dtype)));
  return {m.address + static_cast<std::uintptr_t>(skipped), rows > 1 ? times(m.row_stride, step) : 0, m.col_stride};
}

}  // namespace

Matrix matrix_of(const TensorView& tensor, index_t index) {
  index_t offset = 0;
  for (int dim = tensor.rank - 3; dim >= 0; --dim) {
    offset += index % tensor.shape[dim] * tensor.stride[dim];
    index /= tensor.shape[dim];
  }
  const index_t bytes = offset * static_cast<index_t>(size_of(tensor.dtype));
  return {reinterpret_cast<std::uintptr_t>(tensor.data) + static_cast<std::uintptr_t>(bytes), tensor.step(2), tensor.step(1)};
}

Task task_of(const Problem& problem, const Args& args, index_t index, index_t part) {
  const index_t dilation = problem.dilation_of(index % problem.heads);
  const DilatedPart rows = dilated_part(output_band(problem.op, problem.band), dilation, part);
  const bool transposed = writes_keys(problem.op);
  const index_t first_query = transposed ? rows.first_col : rows.first_row;
  const index_t first_key = transposed ? rows.first_row : rows.first_col;

  Task task{.band = transposed ? rows.band.transposed() : rows.band, .x = {}, .y = {}, .out = {}};
  task.x = strided_rows(matrix_of(args.x, index), problem.dtype, first_query, dilation, task.band.rows);
  task.out = strided_rows(matrix_of(args.out, index), problem.dtype, rows.first_row, dilation, rows.band.rows);
  if (has_second_operand(problem.op)) {
    const TensorView y = problem.op == Op::band_out ? args.y.transposed() : args.y;
    const bool holds_keys = problem.op == Op::band_out || problem.op == Op::band_in;
    task.y = holds_keys ? strided_rows(matrix_of(y, index), problem.dtype, first_key, dilation, task.band.cols)
                        : strided_rows(matrix_of(y, index), problem.dtype, first_query, dilation, task.band.rows);
  }
  return task;
}

}  // namespace window_matmul
