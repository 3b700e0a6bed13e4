// src/launch.hpp: from a checked problem to its kernel: select -> configure -> run.
#pragma once

#include "window_matmul/ops.hpp"

namespace window_matmul {

// Adds the executor, the counters, the device and the stream of `options` to `args`. With `nothing_to_do` a kernel is still selected, so
// that a refusal does not depend on sizes, but it does not run.
Status launch(const Problem& problem, Args& args, const RunOptions& options, bool nothing_to_do);

}  // namespace window_matmul
