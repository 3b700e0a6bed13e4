// python/bindings/threads.hpp: torch's own thread pool as an executor, so that torch.set_num_threads is obeyed.
#pragma once

#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

#include "window_matmul/executor.hpp"

namespace window_matmul::binding {

struct Job {
  index_t parts, count;
  Executor::Body body;
  void* body_context;

  // One part a thread, their sizes differ by one at most.
  index_t begin_of(index_t part) const { return count / parts * part + smaller(part, count % parts); }
};

inline void torch_threads(void*, index_t count, Executor::Body body, void* body_context) {
  std::uint32_t threads = 1;
  TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&threads));
  Job job{smaller(threads, count), count, body, body_context};
  if (job.parts <= 1) return body(body_context, 0, count);
  const auto run_parts = [](std::int64_t begin, std::int64_t end, void* context) {
    const Job& j = *static_cast<const Job*>(context);
    for (index_t part = begin; part < end; ++part) j.body(j.body_context, j.begin_of(part), j.begin_of(part + 1));
  };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, job.parts, 1, run_parts, &job));
}

}  // namespace window_matmul::binding
