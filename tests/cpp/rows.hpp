// tests/cpp/rows.hpp: the rows of the kernel table that this machine can run: what the tests of kernels are repeated for.
#pragma once

#include <gtest/gtest.h>

#include <iosfwd>
#include <span>
#include <string>
#include <vector>

#include "cases.hpp"
#include "trial.hpp"
#include "window_matmul/backends.hpp"

namespace window_matmul::testing_tools {

std::vector<std::string> rows_here(const Problem& problem = {});
std::vector<std::string> rows_of_bf16();
// Rows that take bf16 take every dtype, or bf16 alone.
bool is_of_bf16_alone(const std::string& row);
std::vector<DType> dtypes_of(const std::string& row);

struct RowAndOp {
  std::string row;
  Op op;
};
void PrintTo(const RowAndOp& which, std::ostream* out);  // how GoogleTest names it
std::vector<RowAndOp> rows_and(std::span<const Op> ops);  // each with each

// A test for each row; `GetParam()` is its name.
class OnEachRow : public testing::TestWithParam<std::string> {
 protected:
  RunOptions options() const { return {.backend = GetParam().c_str()}; }
  std::vector<DType> dtypes() const { return dtypes_of(GetParam()); }
  std::vector<DType> halves() const { return dtypes().size() == 1 ? dtypes() : std::vector{DType::bf16, DType::f16}; }
  // Whether pairs of bf16 are multiplied as they are: subnormal numbers are zeros then.
  bool multiplies_pairs() const { return GetParam() == "cpu.avx512bf16"; }
};

// A test for each operator, on all rows: what takes longer than any kernel, operands and what the definition says of them, is made once
// for those that take the same case.
class OnEachOp : public testing::TestWithParam<Op> {
 protected:
  void expect_right(Case c, std::uint64_t seed, Around around = Around::canaries);
};

// A test for each row and operator.
class OnEachRowAndOp : public testing::TestWithParam<RowAndOp> {
 protected:
  const std::string& row() const { return GetParam().row; }
  Op op() const { return GetParam().op; }
  // The case as this row takes it.
  Case taken(Case c) const {
    if (is_of_bf16_alone(row())) c.dtype = DType::bf16;
    return c;
  }
  RunOptions options() const { return {.backend = row().c_str()}; }
};

std::string name_of_op(const testing::TestParamInfo<Op>& info);
std::string name_of_row(const testing::TestParamInfo<std::string>& info);
std::string name_of_row_and_op(const testing::TestParamInfo<RowAndOp>& info);

}  // namespace window_matmul::testing_tools

#define WINDOW_MATMUL_TEST_EACH_ROW(fixture) \
  INSTANTIATE_TEST_SUITE_P(Rows, fixture, testing::ValuesIn(testing_tools::rows_of_bf16()), testing_tools::name_of_row)
#define WINDOW_MATMUL_TEST_EACH_ROW_AND_OP(fixture)                                                        \
  INSTANTIATE_TEST_SUITE_P(Rows, fixture, testing::ValuesIn(testing_tools::rows_and(testing_tools::kOps)), \
                           testing_tools::name_of_row_and_op)
