// src/c_api/threads.cpp: how many threads a call of the C interface uses.
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#endif

#include "convert.hpp"

namespace window_matmul::c_api {
namespace {

constexpr index_t kMostThreads = 1 << 16;
std::atomic<index_t> chosen{0};

index_t processors() {
#if defined(__linux__)
  cpu_set_t mine;
  if (sched_getaffinity(0, sizeof mine, &mine) == 0) return larger(CPU_COUNT(&mine), 1);
#endif
  return larger(static_cast<index_t>(std::thread::hardware_concurrency()), 1);
}

// What the environment says, or 0 where it says nothing.
index_t of_environment() {
  const char* value = std::getenv("WINDOW_MATMUL_THREADS");
  if (value == nullptr || *value == '\0') return 0;
  char* end = nullptr;
  const long long number = std::strtoll(value, &end, 10);
  if (*end != '\0' || number < 1 || number > kMostThreads)
    throw Refusal{"WINDOW_MATMUL_THREADS is '" + std::string(value) + "'; it needs to be a number from 1 to " +
                  std::to_string(kMostThreads)};
  return number;
}

index_t threads() {
  if (const index_t number = chosen.load(std::memory_order_relaxed); number > 0) return number;
  const index_t number = of_environment();
  return number > 0 ? number : processors();
}

}  // namespace

RunOptions options_for(double multiply_adds) {
  RunOptions options;
  // To start a thread and to wait for its end takes 11 us at best, which is what a core needs for some hundred thousands of these.
  const double worth = multiply_adds / 1e6;
  const index_t most = threads();
  if (worth >= 2)
    options.executor = thread_executor(static_cast<int>(worth < static_cast<double>(most) ? static_cast<index_t>(worth) : most));
  return options;
}

}  // namespace window_matmul::c_api

int wm_set_threads(int64_t threads) {
  using namespace window_matmul::c_api;
  return guarded([&] {
    if (threads < 0 || threads > kMostThreads)
      throw Refusal{"threads is " + std::to_string(threads) + "; it needs to be from 0 to " + std::to_string(kMostThreads)};
    chosen = threads;
    return window_matmul::Status();
  });
}

int64_t wm_get_threads(void) {
  int64_t number = 1;  // where the environment says no number: calls say so
  window_matmul::c_api::guarded([&] {
    number = window_matmul::c_api::threads();
    return window_matmul::Status();
  });
  return number;
}
