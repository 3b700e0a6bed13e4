// src/cpu/cpu.cpp: the CPU rows of the kernel table.
#include "cpu/cpu.hpp"

namespace window_matmul::cpu {

std::vector<Kernel> rows() { return {}; }

}  // namespace window_matmul::cpu
