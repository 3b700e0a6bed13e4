// tests/cpp/rows.cpp: the rows of the kernel table that this machine can run, and one case on all of them.
#include "rows.hpp"

#include <algorithm>
#include <map>
#include <ostream>

namespace window_matmul::testing_tools {
namespace {

std::string identifier(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

}  // namespace

std::vector<std::string> rows_here(const Problem& problem) {
  std::vector<std::string> names;
  for (const Verdict& verdict : verdicts(problem, this_device())) {
    if (verdict.why_not.empty()) names.push_back(verdict.name);
  }
  return names;
}

std::vector<std::string> rows_of_bf16() { return rows_here({.dtype = DType::bf16}); }

bool is_of_bf16_alone(const std::string& row) {
  static const std::vector<std::string> of_all = rows_here();
  return std::find(of_all.begin(), of_all.end(), row) == of_all.end();
}

std::vector<DType> dtypes_of(const std::string& row) {
  if (is_of_bf16_alone(row)) return {DType::bf16};
  return {std::begin(kDTypes), std::end(kDTypes)};
}

void PrintTo(const RowAndOp& which, std::ostream* out) { *out << which.row << ", " << name_of(which.op); }

std::vector<RowAndOp> rows_and(std::span<const Op> ops) {
  std::vector<RowAndOp> all;
  for (const std::string& row : rows_of_bf16())
    for (const Op op : ops) all.push_back({row, op});
  return all;
}

void OnEachOp::expect_right(Case c, std::uint64_t seed, Around around) {
  static const std::vector<std::string> all = rows_of_bf16();
  std::map<DType, std::vector<std::string>> rows;  // those of bf16 alone take all cases in it
  for (const std::string& row : all) {
    if (row == "reference" && c.cost() > 100'000) continue;  // it follows the definition pair by pair: it gets the smaller problems
    rows[is_of_bf16_alone(row) ? DType::bf16 : c.dtype].push_back(row);
  }
  for (const auto& [dtype, names] : rows) {
    c.dtype = dtype;
    Trial trial(GetParam(), c, seed, around);
    const Numbers expected = trial.expected();
    for (const std::string& row : names)
      ASSERT_TRUE(trial.check(expected, [&] { return trial.run({.backend = row.c_str()}); })) << "on " << row;
  }
}

std::string name_of_op(const testing::TestParamInfo<Op>& info) { return name_of(info.param); }
std::string name_of_row(const testing::TestParamInfo<std::string>& info) { return identifier(info.param); }
std::string name_of_row_and_op(const testing::TestParamInfo<RowAndOp>& info) {
  return identifier(info.param.row) + "_" + name_of(info.param.op);
}

}  // namespace window_matmul::testing_tools
