// tests/cpp/attention_nonfinite_test.cpp: a NaN or an infinity in one place reaches the results of the rows that see it, and no other.
#include <gtest/gtest.h>

#include "attention_trial.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

// Where a bad number may show: 1 in the results that rows which meet it add to.
class Reach {
 public:
  explicit Reach(const AttentionTrial& trial) : c_(trial.c), x_(trial.values()), definition_(c_, x_), touched_(zeros_of(c_)) {}

  void of_query(index_t row) {  // by its place among all rows
    for_each_row(c_, [&](index_t s, index_t h, index_t i) {
      if (definition_.row_at(s, h, i) == row) infect(s, h, i);
    });
  }
  void of_key(index_t key) {
    for_each_row(c_, [&](index_t s, index_t h, index_t i) {
      for (const auto& seen : definition_.sight(s, h, i))
        if (definition_.key_at(s, h, seen.key) == key) return infect(s, h, i);
    });
  }
  const AttentionResults& touched() const { return touched_; }

 private:
  static void mark(std::vector<double>& list, index_t first, index_t count) { std::fill_n(list.begin() + first, count, 1); }

  void infect(index_t s, index_t h, index_t i) {
    mark(touched_.out, definition_.out_at(s, h, i), c_.value_dim);
    mark(touched_.lse, definition_.row_at(s, h, i), 1);
    mark(touched_.d_q, definition_.q_at(s, h, i), c_.dim);
    if (c_.sinks) mark(touched_.d_sinks, h, 1);
    for (const auto& seen : definition_.sight(s, h, i)) {
      mark(touched_.d_k, definition_.key_at(s, h, seen.key) * c_.dim, c_.dim);
      mark(touched_.d_v, definition_.key_at(s, h, seen.key) * c_.value_dim, c_.value_dim);
      if (c_.bias_rank > 0 && seen.slot >= 0) mark(touched_.d_bias, definition_.bias_at(s, h, i, seen.slot), 1);
    }
  }

  const AttentionCase& c_;
  AttentionValues<double> x_;
  AttentionDefinition<double> definition_;
  AttentionResults touched_;
};

class AttentionNonFinite : public OnEachAttention {
 protected:
  // Puts bad numbers into some rows of an operand, one at a time; `reach` marks what each may change.
  template <class F>
  void spoil(AttentionTrial& trial, Tensor& operand, const AttentionResults& want, const AttentionResults& errors, F reach) {
    const index_t columns = operand.shape()[3], rows = operand.size() / columns;
    for (index_t row = 0, n = 0; row < rows; row += 1 + rows / 4, ++n) {
      const index_t place = row * columns + row % columns;
      const double clean = operand[place], bad = n % 3 == 0 ? kNaN : n % 3 == 1 ? kInf : -kInf;
      if (std::isnan(clean)) continue;  // nobody looks at it
      Reach of_it(trial);
      reach(of_it, row);
      operand.set(place, bad);
      ASSERT_EQ(trial.run(op(), options()).message(), "");
      operand.set(place, clean);
      ASSERT_EQ(trial.first_difference(op(), want, errors, of_it.touched()), "") << bad << " in row " << row << " of " << text(trial.c);
    }
  }
};

TEST_P(AttentionNonFinite, ReachesTheRowsThatSeeIt) {
  for (const AttentionCase& c : attention_scenes(is_reference(row()))) {
    AttentionTrial trial(taken(c), 1);
    const AttentionResults &want = trial.from_reference(), &errors = trial.errors();
    trial.give_results_of_forward(want);
    const auto of_query = [](Reach& reach, index_t row) { reach.of_query(row); };
    const auto of_key = [](Reach& reach, index_t row) { reach.of_key(row); };
    spoil(trial, trial.q, want, errors, of_query);
    spoil(trial, trial.k, want, errors, of_key);
    spoil(trial, trial.v, want, errors, of_key);
    if (op() == Op::attention_backward) spoil(trial, trial.d_out, want, errors, of_query);
    if (HasFatalFailure()) return;
  }
}

WINDOW_MATMUL_TEST_EACH_ATTENTION(AttentionNonFinite);

}  // namespace
}  // namespace window_matmul
