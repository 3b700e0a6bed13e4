// python/bindings/describe.hpp: problems named by text, and the kernel table's verdicts on them.
#pragma once

#include <stdexcept>
#include <string>

#include "window_matmul/backends.hpp"

namespace window_matmul::binding {

template <class Enum>
Enum find(const char* name, const std::string& got, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) {
    const Enum value{static_cast<std::uint8_t>(i)};
    if (got == name_of(value)) return value;
    all += (i ? ", " : "") + std::string(name_of(value));
  }
  throw std::invalid_argument(std::string(name) + " is '" + got + "'; it needs to be one of: " + all);
}

inline Problem any_problem(const std::string& op, const std::string& dtype) {
  Problem problem;
  problem.op = find<Op>("op", op, 7), problem.dtype = find<DType>("dtype", dtype, 4);
  problem.band = {64, 64, 8, 8, 0}, problem.dim = 64;
  problem.attention.kv_heads = 1, problem.attention.value_dim = 64;
  return problem;
}

// A line a row of the kernel table: its name, a tab, and nothing or the reason why it refuses this op and dtype.
inline std::string verdict_lines(const std::string& op, const std::string& dtype, const DeviceInfo& device) {
  std::string lines;
  for (const Verdict& verdict : verdicts(any_problem(op, dtype), device)) lines += verdict.name + '\t' + verdict.why_not + '\n';
  return lines;
}

}  // namespace window_matmul::binding
