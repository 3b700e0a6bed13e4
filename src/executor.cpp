// src/executor.cpp: std::threads for programs that have no pool of their own.
#include "window_matmul/executor.hpp"

#include <exception>
#include <thread>
#include <vector>

namespace window_matmul {
namespace {

void run_on_threads(void* context, index_t count, Executor::Body body, void* body_context) {
  const index_t threads = smaller(static_cast<index_t>(reinterpret_cast<std::intptr_t>(context)), count);
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(threads));
  index_t begin = 0;
  for (index_t t = 1; t < threads; ++t) {
    const index_t end = begin + (count - begin) / (threads - t + 1);
    try {
      others.emplace_back(body, body_context, begin, end);
    } catch (const std::exception&) {
      break;  // the system gives no more threads, or no memory for one: this one does the rest
    }
    begin = end;
  }
  body(body_context, begin, count);
  for (std::thread& other : others) other.join();
}

}  // namespace

Executor thread_executor(int threads) {
  if (threads <= 1) return {};
  return {run_on_threads, reinterpret_cast<void*>(static_cast<std::intptr_t>(threads))};
}

}  // namespace window_matmul
