// include/window_matmul/executor.hpp: where threads come from: a function pointer that the caller passes in.
#pragma once

#include "window_matmul/band.hpp"

namespace window_matmul {

struct Executor {
  using Body = void (*)(void* body_context, index_t begin, index_t end) noexcept;

  // Must call body(body_context, begin, end) for disjoint ranges that cover [0, count), from any threads, and return when all are done.
  void (*parallel_for)(void* context, index_t count, Body body, void* body_context) = serial;
  void* context = nullptr;

  static void serial(void*, index_t count, Body body, void* body_context) { body(body_context, 0, count); }

  // Runs f(begin, end) over [0, count).
  template <class F>
  void for_each_range(index_t count, F&& f) const {
    if (count <= 0) return;
    auto body = [](void* g, index_t begin, index_t end) noexcept { (*static_cast<F*>(g))(begin, end); };
    parallel_for(context, count, body, &f);
  }
};

// `threads` new std::threads a call: for standalone programs that have no pool of their own. threads <= 1 runs inline.
Executor thread_executor(int threads);

}  // namespace window_matmul
