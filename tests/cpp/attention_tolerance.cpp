// tests/cpp/attention_tolerance.cpp: the rounding of a kernel's sums, carried through from the scores to the gradients.
#include "attention_tolerance.hpp"

namespace window_matmul::testing_tools {
namespace {

class AttentionTolerance {
 public:
  AttentionTolerance(const AttentionCase& c, const AttentionValues<double>& x)
      : c_(c), x_(x), definition_(c, x), u_(sum_format_of(c.dtype).roundoff + format_of(DType::f64).roundoff), errors_(zeros_of(c)) {
    for_each_row(c, [&](index_t s, index_t h, index_t i) { add_row(s, h, i); });
  }

  const AttentionResults& errors() const { return errors_; }

 private:
  static double& at(std::vector<double>& list, index_t i) { return list[static_cast<std::size_t>(i)]; }
  static double at(const std::vector<double>& list, index_t i) { return list[static_cast<std::size_t>(i)]; }

  // Of the scores of a row, absolute.
  double error_of_scores(index_t s, index_t h, index_t i, const AttentionRow<double>& row) const {
    double worst = 0, highest = std::abs(row.lse) + (c_.sinks ? std::abs(at(x_.sinks, h)) : 0);
    const index_t q = definition_.q_at(s, h, i);
    for (const auto& key : row.keys) {
      const index_t k = definition_.key_at(s, h, key.key) * c_.dim;
      double products = 0;
      for (index_t n = 0; n < c_.dim; ++n) products += std::abs(at(x_.q, q + n) * at(x_.k, k + n));
      const double terms = static_cast<double>(c_.dim) + 8;
      worst = std::max(worst, of_split() * std::abs(c_.actual_scale()) * products +
                                  u_ * (terms_of_split() * terms * std::abs(c_.actual_scale()) * products +
                                        8 * (std::abs(key.capped) + std::abs(key.score))));
      highest = std::max(highest, std::abs(key.score));
    }
    return worst + 8 * u_ * highest;
  }

  void add_row(index_t s, index_t h, index_t i) {
    const AttentionRow<double> row = definition_.row(s, h, i);
    if (row.keys.empty()) return;
    const double scores = error_of_scores(s, h, i, row), keys = static_cast<double>(row.keys.size());
    const double of_p = 2 * (scores + (keys + 16) * u_);
    at(errors_.lse, definition_.row_at(s, h, i)) = of_p;
    double tiny = sum_format_of(c_.dtype).smallest_normal;  // a probability below it may become 0
    if (c_.narrows_weights && c_.dtype == DType::f16) tiny = 0x1p-25;  // half of its smallest number; the largest weight of a row is 1
    const index_t out = definition_.out_at(s, h, i);
    for (const auto& key : row.keys) {
      const index_t v = definition_.key_at(s, h, key.key) * c_.value_dim;
      const double error = key.kept * ((of_p + of_weight()) * key.p + tiny);
      for (index_t n = 0; n < c_.value_dim; ++n) at(errors_.out, out + n) += error * std::abs(at(x_.v, v + n));
    }
    add_gradients(s, h, i, row, scores, of_p);
  }

  void add_gradients(index_t s, index_t h, index_t i, const AttentionRow<double>& row, double scores, double of_p) {
    // Sums over all rows that share a gradient, and the value dim.
    const double terms = static_cast<double>(c_.value_dim) + 2 * static_cast<double>(rows_of_all(c_)) + 16;
    const double relative = of_p + format_of(c_.dtype).roundoff + 2 * terms * u_;
    std::vector<double> d_p;
    double delta = 0;
    const index_t out = definition_.out_at(s, h, i);
    for (const auto& key : row.keys) {
      const index_t v = definition_.key_at(s, h, key.key) * c_.value_dim;
      double product = 0;
      for (index_t n = 0; n < c_.value_dim; ++n) product += std::abs(at(x_.d_out, out + n) * at(x_.v, v + n));
      d_p.push_back(key.kept * product), delta += key.p * d_p.back();
    }
    const double d_lse = c_.with_lse ? std::abs(at(x_.d_lse, definition_.row_at(s, h, i))) : 0;
    for (std::size_t n = 0; n < d_p.size(); ++n) {
      const auto& key = row.keys[n];
      const double d_score = key.p * (d_p[n] + delta) + std::exp(key.score - row.lse) * d_lse;
      add_score(s, h, i, key, d_score, relative, scores);
      const index_t v = definition_.key_at(s, h, key.key) * c_.value_dim;
      const double error = (relative + of_weight()) * key.kept * key.p;
      for (index_t m = 0; m < c_.value_dim; ++m) at(errors_.d_v, v + m) += error * std::abs(at(x_.d_out, out + m));
    }
    if (c_.sinks) at(errors_.d_sinks, h) += relative * row.p_of_sink * delta;
  }

  void add_score(index_t s, index_t h, index_t i, const SeenByRow<double>& key, double d_score, double relative, double scores) {
    if (c_.bias_rank > 0 && key.slot >= 0) at(errors_.d_bias, definition_.bias_at(s, h, i, key.slot)) += relative * d_score;
    const double share = c_.softcap > 0 ? key.capped / c_.softcap : 0, slope = 1 - share * share;
    const double of_slope = c_.softcap > 0 ? 2 * scores / c_.softcap + 8 * u_ : 0;
    const double d_product = ((relative + of_weight()) * slope + of_slope) * std::abs(c_.actual_scale()) * d_score;
    const index_t q = definition_.q_at(s, h, i), k = definition_.key_at(s, h, key.key) * c_.dim;
    for (index_t n = 0; n < c_.dim; ++n) {
      at(errors_.d_q, q + n) += d_product * std::abs(at(x_.k, k + n));
      at(errors_.d_k, k + n) += d_product * std::abs(at(x_.q, q + n));
    }
  }

  double of_weight() const {
    if (c_.narrows_weights) return format_of(c_.dtype).roundoff;
    return (c_.rounds_weights ? 2 * format_of(DType::bf16).roundoff * format_of(DType::bf16).roundoff : 0) + of_split();
  }
  // What is left out of a product of split factors, and how many terms it is summed in.
  double of_split() const { return c_.splits_factors ? 0x1p-21 : 0; }
  double terms_of_split() const { return c_.splits_factors ? 3 : 1; }

  const AttentionCase& c_;
  const AttentionValues<double>& x_;
  AttentionDefinition<double> definition_;
  double u_;
  AttentionResults errors_;
};

}  // namespace

AttentionResults errors_of(const AttentionCase& c, const AttentionValues<double>& x) { return AttentionTolerance(c, x).errors(); }

}  // namespace window_matmul::testing_tools
