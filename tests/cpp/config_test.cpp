// tests/cpp/config_test.cpp: results are right for every tile size that `configure` gives, on machines with the smallest and largest
// caches.
#include <gtest/gtest.h>

#include "rows.hpp"
#include "validate.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

class Configs : public OnEachRowAndOp {
 protected:
  const Kernel& kernel() const {
    const auto& table = kernel_table();
    return *std::find_if(table.begin(), table.end(), [&](const Kernel& k) { return k.name == row(); });
  }

  Status run(const Trial& trial, const DeviceInfo& device) const {
    const TensorView x = trial.x.view(), y = trial.y.view(), out = trial.out.view();
    Problem problem;
    Args args;
    const Status status =
        validate({op(), trial.c.window, x, op() == Op::softmax ? nullptr : &y, out, trial.c.cols, trial.c.fill}, &problem, &args);
    return status.ok() ? kernel().run(problem, kernel().configure(problem, device), args) : status;
  }
};

TEST_P(Configs, AnyCacheGivesTheSameNumbers) {
  // More keys in a block of rows than a small cache holds packed, and more columns than are packed at a time.
  std::vector<Case> scenes = {
      {.rows = 260, .cols = 270, .window = {40, 30}, .dim = 40},         {.rows = 200, .cols = 340, .window = {170, 0}, .dim = 17},
      {.rows = 340, .cols = 200, .window = {0, 170}, .dim = 9},          {.rows = 230, .cols = 230, .window = {250, 250}, .dim = 3},
      {.rows = 210, .cols = 100, .window = {3, 80}, .dim = 270},         {.rows = 460, .cols = 450, .window = {60, 50, {2}}, .dim = 20},
      {.rows = 250, .cols = 200, .window = {10, 10, {}, -90}, .dim = 11}};
  Random random(1);
  for (Case& c : scenes) {
    for (const DType dtype : dtypes_of(row())) {
      c.dtype = dtype;
      c.x.turned = random.one_in(2), c.y.turned = random.one_in(2), c.out.turned = random.one_in(4);
      Trial trial(op(), c, random.bits());
      const Numbers expected = trial.expected();
      for (const std::size_t bytes : {std::size_t{1}, std::size_t{1} << 15, std::size_t{1} << 30}) {
        const DeviceInfo device{.avx2 = true, .avx512 = true, .l1_bytes = bytes, .l2_bytes = bytes};
        ASSERT_TRUE(trial.check(expected, [&] { return run(trial, device); })) << "caches of " << bytes << " bytes";
      }
    }
  }
}

// A value row that is not finite, at every place around the borders of the packed blocks of keys.
TEST_P(Configs, NonFiniteRowsAtTheBordersOfBlocks) {
  if (op() == Op::softmax) return;  // has no second operand
  const Case c{.rows = 210, .cols = 210, .window = {30, 20}, .dim = 18};
  Trial trial(op(), taken(c), 1);
  const index_t rows = trial.y.shape()[0], cols = trial.y.shape()[1];
  for (index_t n = 0; n < std::max(rows, cols); n += 3) {
    const index_t place = n % rows * cols + n % cols;
    const double clean = trial.y[place];
    if (!std::isfinite(clean)) continue;
    trial.y.set(place, n % 2 == 0 ? kNaN : -kInf);
    ASSERT_TRUE(trial.check(trial.expected(), [&] { return run(trial, {.l1_bytes = 1, .l2_bytes = 1}); })) << place;
    trial.y.set(place, clean);
  }
}

WINDOW_MATMUL_TEST_EACH_ROW_AND_OP(Configs);

}  // namespace
}  // namespace window_matmul
