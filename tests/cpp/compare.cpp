// tests/cpp/compare.cpp: the comparison and the report of the worst element; the words of a refusal.
#include "compare.hpp"

#include <algorithm>
#include <cctype>

namespace window_matmul::testing_tools {
namespace {

bool continues_word(const std::string& text, std::size_t at) {
  const auto is_part = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
  return at > 0 && at < text.size() && is_part(static_cast<unsigned char>(text[at - 1])) && is_part(static_cast<unsigned char>(text[at]));
}

}  // namespace

std::string place(const Shape& shape, index_t flat) {
  Shape index(shape.size());
  for (std::size_t d = shape.size(); d-- > 0; flat /= shape[d]) index[d] = flat % shape[d];
  return text(index);
}

testing::AssertionResult close(const Tensor& got, const std::vector<Expected>& want) {
  if (static_cast<std::size_t>(got.size()) != want.size()) return testing::AssertionFailure() << "sizes differ";
  double worst = 0;
  index_t where = 0, wrong = 0;
  const std::vector<double> values = got.values();
  for (index_t i = 0; i < got.size(); ++i) {
    const double off = misfit(values[static_cast<std::size_t>(i)], want[static_cast<std::size_t>(i)]);
    wrong += off > 1;
    if (off > worst) worst = off, where = i;
  }
  if (wrong == 0) return testing::AssertionSuccess();
  const Expected& e = want[static_cast<std::size_t>(where)];
  return testing::AssertionFailure() << wrong << " of " << got.size() << " elements are wrong; the worst, at " << place(got.shape(), where)
                                     << ", is " << got[where] << " and should be " << e.value << " +- " << e.tolerance;
}

testing::AssertionResult refuses(Op op, const Status& status, std::string_view words) {
  constexpr std::string_view kAnything = " ... ";
  const std::string& message = status.message();
  const auto failure = [&] { return testing::AssertionFailure() << "want: " << words << "\ngot: " << message << "\n"; };
  if (status.code() != StatusCode::invalid_argument) return failure() << "the code is another one";
  if (!message.starts_with(std::string(name_of(op)) + ": ")) return failure() << "the operator is not named";
  for (std::size_t from = 0; !words.empty();) {
    const std::string_view part = words.substr(0, words.find(kAnything));
    words.remove_prefix(std::min(words.size(), part.size() + kAnything.size()));
    const std::size_t at = message.find(part, from);
    if (at == std::string::npos) return failure() << "'" << part << "' is not there";
    from = at + part.size();
    if (!words.empty() && continues_word(message, from)) return failure() << "'" << part << "' goes on";
  }
  return testing::AssertionSuccess();
}

}  // namespace window_matmul::testing_tools
