// tests/cpp/refusal.hpp: what the message of a refused call has to say.
#pragma once

#include <gtest/gtest.h>

#include <string_view>

#include "window_matmul/problem.hpp"
#include "window_matmul/status.hpp"

namespace window_matmul::testing_tools {

// Whether `op` refused its arguments with these words, in this order; " ... " stands for anything.
testing::AssertionResult refuses(Op op, const Status& status, std::string_view words);

}  // namespace window_matmul::testing_tools
