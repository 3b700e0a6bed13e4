// tests/cpp/trial.hpp: one operator on one case: operands made, poisoned where nothing may look, run, and compared.
#pragma once

#include <gtest/gtest.h>

#include <iosfwd>
#include <string>
#include <vector>

#include "cases.hpp"
#include "definition.hpp"
#include "window_matmul/ops.hpp"

namespace window_matmul {

void PrintTo(Op op, std::ostream* out);  // how GoogleTest names it

}  // namespace window_matmul

namespace window_matmul::testing_tools {

inline constexpr Op kOps[] = {Op::band_out, Op::band_in, Op::band_in_transposed, Op::softmax, Op::softmax_backward};

class Trial {
 public:
  const Op op;
  const Case c;
  Tensor x, y, out;

  Trial(Op op_, const Case& case_, std::uint64_t seed, Around around = Around::canaries);

  Numbers expected() const;  // what the definition says
  Status run(const RunOptions& options);

  // Calls `run_it` and compares with `numbers`; nothing but the output may have changed.
  template <class F>
  testing::AssertionResult check(const Numbers& numbers, F run_it) {
    watch();
    return compare(run_it(), numbers);
  }
  testing::AssertionResult check(const RunOptions& options);

 private:
  bool keys_are_rows() const { return op == Op::band_in_transposed; }
  bool dim_is_cols() const { return op == Op::band_in || op == Op::band_in_transposed; }
  index_t rows_of_y() const { return op == Op::band_out ? c.dim : op == Op::band_in ? c.cols : op == Op::softmax ? 0 : c.rows; }
  index_t cols_of_y() const { return op == Op::band_out ? c.cols : dim_is_cols() ? c.dim : c.width(); }
  Head geometry(index_t index) const;
  index_t first_of(const Tensor& t, index_t index) const;  // the place of the matrix that head `index` reads

  void watch();
  testing::AssertionResult compare(const Status& status, const Numbers& numbers);

  using Flags = std::vector<bool>;
  void mark_used(Flags& in_x, Flags& in_y) const;  // which elements the definition looks at
  void fill_used(std::uint64_t seed);
};

}  // namespace window_matmul::testing_tools
