// tests/cpp/executors.hpp: executors that use every freedom an executor has.
#pragma once

#include <algorithm>
#include <thread>

#include "window_matmul/executor.hpp"

namespace window_matmul::testing_tools {

// One index at a time, the last first, with empty ranges between.
inline Executor one_by_one_backwards() {
  return {[](void*, index_t count, Executor::Body body, void* body_context) {
    for (index_t i = count; i-- > 0;) body(body_context, i, i + 1), body(body_context, i, i);
  }};
}

// Uneven ranges, each on a thread of its own, one after the other.
inline Executor a_new_thread_each_time() {
  return {[](void*, index_t count, Executor::Body body, void* body_context) {
    for (index_t begin = 0, length = 1; begin < count; begin += length, length = length % 5 + 2) {
      std::thread(body, body_context, begin, std::min(begin + length, count)).join();
    }
  }};
}

}  // namespace window_matmul::testing_tools
