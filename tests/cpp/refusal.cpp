// tests/cpp/refusal.cpp: what the message of a refused call has to say.
#include "refusal.hpp"

namespace window_matmul::testing_tools {

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
  }
  return testing::AssertionSuccess();
}

}  // namespace window_matmul::testing_tools
