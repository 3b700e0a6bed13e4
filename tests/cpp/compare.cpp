// tests/cpp/compare.cpp: the comparison, and the report of the worst element.
#include "compare.hpp"

namespace window_matmul::testing_tools {

std::string place(const Shape& shape, index_t flat) {
  Shape index(shape.size());
  for (std::size_t d = shape.size(); d-- > 0; flat /= shape[d]) index[d] = flat % shape[d];
  return text(index);
}

testing::AssertionResult close(const Tensor& got, const std::vector<Expected>& want) {
  if (static_cast<std::size_t>(got.size()) != want.size()) return testing::AssertionFailure() << "sizes differ";
  double worst = 0;
  index_t where = 0, wrong = 0;
  for (index_t i = 0; i < got.size(); ++i) {
    const double off = misfit(got[i], want[static_cast<std::size_t>(i)]);
    wrong += off > 1;
    if (off > worst) worst = off, where = i;
  }
  if (wrong == 0) return testing::AssertionSuccess();
  const Expected& e = want[static_cast<std::size_t>(where)];
  return testing::AssertionFailure() << wrong << " of " << got.size() << " elements are wrong; the worst, at " << place(got.shape(), where)
                                     << ", is " << got[where] << " and should be " << e.value << " +- " << e.tolerance;
}

}  // namespace window_matmul::testing_tools
