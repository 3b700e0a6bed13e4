// tests/cpp/attention_trial.hpp: fused attention on one case: tensors made, poisoned where nothing may look, run, and compared.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "attention_definition.hpp"
#include "attention_numbers.hpp"
#include "rows.hpp"

namespace window_matmul::testing_tools {

class AttentionTrial {
 public:
  const AttentionCase c;
  bool on_gpu = false;  // as one takes them: numbers of sequences and the seed in its memory

 private:
  Random layouts_;  // before the tensors, which draw from it

 public:
  Tensor q, k, v, bias, sinks, d_out, d_lse;
  Tensor out, lse, d_q, d_k, d_v, d_bias, d_sinks;
  MaskBytes key_mask, global_mask;
  std::uint64_t dropout_seed;
  std::vector<std::int64_t> sequence_places, query_places, key_places;

  AttentionTrial(const AttentionCase& case_, std::uint64_t seed, Around around = Around::canaries);

  AttentionInputs inputs() const;
  AttentionGradients gradients() const;
  AttentionValues<double> values() const;
  Status run(Op op, const RunOptions& options);

  // What the definition says of this trial's numbers; what the reference says, in double precision, for problems too large for it; and how
  // far results may be off. All take longer than any kernel, and are computed once for all rows of the table.
  const AttentionResults& expected(Op op) const;
  const AttentionResults& from_reference() const;
  const AttentionResults& errors() const;

  // Runs `op` and compares; nothing but the outputs may have changed.
  testing::AssertionResult check(Op op, const RunOptions& options, const AttentionResults& want, const AttentionResults& errors);
  testing::AssertionResult check(Op op, const RunOptions& options) { return check(op, options, expected(op), errors()); }
  testing::AssertionResult check_as_reference(Op op, const RunOptions& options) { return check(op, options, from_reference(), errors()); }

  // "" or which result is wrong; those where `ignored` is not 0 may be anything.
  std::string first_difference(Op op, const AttentionResults& want, const AttentionResults& errors, const AttentionResults& ignored) const;

  void give_results_of_forward(const AttentionResults& r);  // as they are stored: what backward is given

  std::vector<Tensor*> outputs(Op op);
  std::vector<std::byte> bits(Op op);

 private:
  mutable NumbersThere there_[4];

  DType lse_dtype() const { return c.dtype == DType::f64 ? DType::f64 : DType::f32; }
  Shape shape_of_bias() const;
  Tensor input(DType dtype, Shape shape, Around around) { return tensor(dtype, std::move(shape), Role::input, around); }
  Tensor output(DType dtype, Shape shape, Around around) { return tensor(dtype, std::move(shape), Role::output, around); }
  Tensor tensor(DType dtype, Shape shape, Role role, Around around);
  std::vector<Tensor*> tensors() { return {&q, &k, &v, &bias, &sinks, &d_out, &d_lse, &out, &lse, &d_q, &d_k, &d_v, &d_bias, &d_sinks}; }

  AttentionCase exact() const;                         // whatever a row does to the weights
  std::string name(const AttentionCase& case_) const;  // and of all that an operator reads
  AttentionResults computed_by_reference() const;
  void copy_inputs(const AttentionTrial& from);
  void fill(std::uint64_t seed);
  void fill_row(const AttentionDefinition<double>& definition, Random& random, index_t s, index_t h, index_t i);
};

std::vector<std::string> rows_of_attention(Op op, DType dtype);
// A test for each row that supports fused attention, forward and backward.
std::vector<RowAndOp> attention_rows();

class OnEachAttention : public OnEachRowAndOp {
 protected:
  static bool is_reference(const std::string& row) { return row == "reference"; }
  // The case as this row takes it. One of bf16 alone multiplies bf16.
  AttentionCase taken(AttentionCase c) const;
};

}  // namespace window_matmul::testing_tools

#define WINDOW_MATMUL_TEST_EACH_ATTENTION(fixture) \
  INSTANTIATE_TEST_SUITE_P(Rows, fixture, testing::ValuesIn(testing_tools::attention_rows()), testing_tools::name_of_row_and_op)
