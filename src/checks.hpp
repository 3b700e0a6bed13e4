// src/checks.hpp: the checks that all operators share. Each returns "" or what is wrong: the argument, what it got and what it needs.
#pragma once

#include <string>

#include "window_matmul/ops.hpp"

namespace window_matmul::checks {

inline std::string text(index_t n) { return std::to_string(n); }
std::string shape_text(const TensorView& t);

std::string wrong_dtype(const char* name, const TensorView& t, DType dtype, const char* first);

// Sizes and strides that 64 bits can count, and memory where there are elements. Needs a rank from 0 to kMaxRank.
std::string wrong_memory(const char* name, const TensorView& t);

// Of an output: elements that share memory.
std::string overlapping(const char* name, const TensorView& t);

std::string wrong_sides(const Window& window);  // negative ones
std::string wrong_steps(const Window& window);  // dilations and query_offset

// One value or one a head; fills in problem->dilation. Needs problem->heads, which is dim -3 of `out`.
std::string wrong_dilation(const Window& window, const TensorView& out, Problem* problem);

}  // namespace window_matmul::checks
