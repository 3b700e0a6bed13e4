// tests/cpp/executor_test.cpp: executors cover every index once, wait for all of it, and thread_executor does run on threads.
#include "window_matmul/executor.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "executors.hpp"

namespace window_matmul {
namespace {

void expect_each_index_once(const Executor& executor, index_t count) {
  std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
  executor.for_each_range(count, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
  });
  for (const auto& visit : visits) ASSERT_EQ(visit, 1);
}

TEST(Executor, CoversEveryIndexOnce) {
  const Executor executors[] = {{}, thread_executor(2), testing_tools::one_by_one_backwards(), testing_tools::a_new_thread_each_time()};
  for (const Executor& executor : executors) {
    for (const index_t count : {0, 1, 2, 3, 7, 64, 1000}) expect_each_index_once(executor, count);
  }
}

TEST(Executor, ThreadsCoverEveryIndexOnceForEveryNumberOfThreads) {
  for (int threads = -1; threads <= 9; ++threads) {
    for (index_t count = 0; count <= 20; ++count) expect_each_index_once(thread_executor(threads), count);
  }
}

TEST(Executor, NothingRunsForNoWork) {
  for (const index_t count : {index_t{0}, index_t{-1}, -kUnbounded}) {
    Executor{}.for_each_range(count, [](index_t, index_t) { FAIL(); });
    thread_executor(3).for_each_range(count, [](index_t, index_t) { FAIL(); });
  }
}

TEST(Executor, LongRangesDoNotWrap) {
  for (const int threads : {1, 3}) {
    std::atomic<index_t> total = 0;
    thread_executor(threads).for_each_range(kUnbounded, [&](index_t begin, index_t end) { total += end - begin; });
    EXPECT_EQ(total, kUnbounded);
  }
}

TEST(Executor, OneThreadIsTheCaller) {
  for (const Executor& executor : {Executor{}, thread_executor(1), thread_executor(0), thread_executor(-3)}) {
    executor.for_each_range(5, [](index_t begin, index_t end) { EXPECT_TRUE(begin == 0 && end == 5); });
    executor.for_each_range(5, [caller = std::this_thread::get_id()](index_t, index_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
  }
}

// Every range waits until all have begun: only as many threads as ranges get past that.
TEST(Executor, ThreadsRunAtTheSameTime) {
  constexpr int kThreads = 3;
  std::mutex mutex;
  std::condition_variable all_here;
  std::set<std::thread::id> threads;
  bool met = true;
  thread_executor(kThreads).for_each_range(kThreads, [&](index_t, index_t) {
    std::unique_lock lock(mutex);
    threads.insert(std::this_thread::get_id());
    all_here.notify_all();
    met = all_here.wait_for(lock, std::chrono::seconds(30), [&] { return threads.size() == kThreads; }) && met;
  });
  EXPECT_TRUE(met) << threads.size() << " threads came";
}

TEST(Executor, PassesItsContext) {
  int calls = 0;
  const Executor counting{[](void* context, index_t count, Executor::Body body, void* body_context) {
                            ++*static_cast<int*>(context);
                            body(body_context, 0, count);
                          },
                          &calls};
  expect_each_index_once(counting, 6);
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace window_matmul
