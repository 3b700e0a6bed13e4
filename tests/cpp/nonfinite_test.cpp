// tests/cpp/nonfinite_test.cpp: NaN and infinity reach exactly what the definition says they reach, wherever they stand.
#include <gtest/gtest.h>

#include "rows.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class NonFinite : public OnEachRowAndOp {
 protected:
  // Tiles begin and end in many places: narrow and wide windows, one-sided ones, more and fewer keys than queries, rows without keys.
  static std::vector<Case> scenes() {
    std::vector<Case> all = {
        {.rows = 70, .cols = 70, .window = {5, 3}, .dim = 3},        {.rows = 70, .cols = 70, .window = {0, 0}, .dim = 1},
        {.rows = 40, .cols = 75, .window = {30, 0}, .dim = 17},      {.rows = 75, .cols = 40, .window = {0, 30}, .dim = 9},
        {.rows = 35, .cols = 35, .window = {40, 40}, .dim = 16},     {.rows = 50, .cols = 50, .window = {4, 4, {3}}, .dim = 5},
        {.rows = 60, .cols = 30, .window = {7, 2, {}, 8}, .dim = 8},
    };
    for (std::size_t n = 0; n < all.size(); ++n) {
      all[n].dtype = kDTypes[n % 4];
      all[n].x.turned = n % 3 == 1, all[n].y.turned = n % 2 == 1;
    }
    return all;
  }
};

// The clean elements of an operand, spread over its rows and columns.
Shape some_places(const Tensor& t) {
  const index_t rows = t.shape()[0], cols = t.shape()[1];
  Shape places;
  for (index_t n = 0; n < std::max(rows, cols); ++n) {
    const index_t place = n % rows * cols + n % cols;
    if (std::isfinite(t[place])) places.push_back(place);
  }
  return places;
}

TEST_P(NonFinite, OneAtATimeInEveryRowAndColumn) {
  for (const Case& c : scenes()) {
    Trial trial(op(), taken(c), 1);
    for (Tensor* operand : {&trial.x, &trial.y}) {
      if (operand->size() == 0) continue;  // the softmax has one operand
      const Shape places = some_places(*operand);
      for (std::size_t n = 0; n < places.size(); ++n) {
        const bool positive = n % 3 == 2 && op() != Op::softmax;  // the definition says nothing of the softmax of +inf
        const double clean = (*operand)[places[n]], bad = n % 3 == 0 ? kNaN : positive ? kInf : -kInf;
        operand->set(places[n], bad);
        ASSERT_TRUE(trial.check(options())) << bad << " in operand " << (operand == &trial.x ? "x" : "y") << " at "
                                            << testing_tools::place(operand->shape(), places[n]);
        operand->set(places[n], clean);
      }
    }
  }
}

TEST_P(NonFinite, ManyAtOnce) {
  Random random(2);
  for (const Case& c : scenes()) {
    for (const index_t rarity : {2, 5, 50}) {
      Trial trial(op(), taken(c), 1);
      for (Tensor* operand : {&trial.x, &trial.y}) {
        for (index_t i = 0; i < operand->size(); ++i) {
          const double bad = random.pick(std::vector<double>{kNaN, -kInf, op() == Op::softmax ? -kInf : kInf});
          if (random.one_in(rarity) && std::isfinite((*operand)[i])) operand->set(i, bad);
        }
      }
      ASSERT_TRUE(trial.check(options())) << "one in " << rarity;
    }
  }
}

WINDOW_MATMUL_TEST_EACH_ROW_AND_OP(NonFinite);

class NonFiniteRows : public OnEachRow {
 protected:
  // Makes every third row of the summed operand bad in turn: exactly the output rows that `sees(output row, bad row)` must show it.
  template <class F>
  void expect_reach(Op op, const Case& c, index_t first, F sees) {
    Trial trial(op, c, 1);
    const index_t summed_rows = trial.y.shape()[0], out_rows = trial.out.shape()[0];
    const auto set_row = [&](index_t row, double value) {
      for (index_t n = 0; n < c.dim; ++n) trial.y.set(row * c.dim + n, value);
    };
    for (index_t row = 0; row < summed_rows; ++row) set_row(row, 1);
    for (index_t bad = first; bad < summed_rows; bad += 3) {
      set_row(bad, bad % 2 == 0 ? kNaN : kInf);
      ASSERT_TRUE(trial.run(options()).ok());
      for (index_t i = 0; i < out_rows * c.dim; ++i) {
        ASSERT_EQ(!std::isfinite(trial.out[i]), sees(i / c.dim, bad))
            << name_of(op) << " of " << text(c) << ": row " << bad << " is " << trial.y[bad * c.dim] << ", output row " << i / c.dim
            << " is " << trial.out[i];
      }
      set_row(bad, 1);
    }
  }
};

TEST_P(NonFiniteRows, ReachTheRowsThatSeeThemAndNoOthers) {
  index_t first = 0;  // other rows in other dtypes
  for (const DType dtype : dtypes()) {
    const Case c{.rows = 200, .cols = 200, .window = {40, 25}, .dim = 20, .dtype = dtype};
    expect_reach(Op::band_in, c, first % 3, [](index_t query, index_t key) { return query - 40 <= key && key <= query + 25; });
    expect_reach(Op::band_in_transposed, c, first++ % 3, [](index_t key, index_t query) { return query - 40 <= key && key <= query + 25; });
  }
}

WINDOW_MATMUL_TEST_EACH_ROW(NonFiniteRows);

}  // namespace
}  // namespace window_matmul
