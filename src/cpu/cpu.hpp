// src/cpu/cpu.hpp: the CPU rows of the kernel table, one an instruction set.
#pragma once

#include <vector>

#include "window_matmul/backends.hpp"

namespace window_matmul::cpu {

std::vector<Kernel> rows();

}  // namespace window_matmul::cpu
