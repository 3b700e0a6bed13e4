// include/window_matmul/window_matmul.hpp: everything, and the version (CMake and Python read it here).
#pragma once

#define WINDOW_MATMUL_VERSION "0.1.0"

#include "window_matmul/attention.hpp"
#include "window_matmul/backends.hpp"
#include "window_matmul/band.hpp"
#include "window_matmul/executor.hpp"
#include "window_matmul/op.hpp"
#include "window_matmul/ops.hpp"
#include "window_matmul/problem.hpp"
#include "window_matmul/status.hpp"
#include "window_matmul/tensor.hpp"
