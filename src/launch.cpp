// src/launch.cpp: the one way to a kernel.
#include "launch.hpp"

#include <cstdlib>

#include "window_matmul/backends.hpp"

namespace window_matmul {

Status launch(const Problem& problem, Args& args, const RunOptions& options, bool nothing_to_do) {
  args.executor = options.executor;
  args.stats = options.stats;
  const DeviceInfo& device = options.device != nullptr ? *options.device : this_device();
  args.device = &device, args.stream = options.stream, args.memory = options.memory;
  const Kernel* kernel = nullptr;
  const char* forced = options.backend != nullptr ? options.backend : std::getenv("WINDOW_MATMUL_BACKEND");
  if (Status status = select(problem, device, forced, &kernel); !status.ok()) return status;
  if (nothing_to_do) return {};
  return kernel->run(problem, kernel->configure(problem, device), args);
}

}  // namespace window_matmul
