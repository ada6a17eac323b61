// The pool: every task once, whoever calls it.
#include "optimized/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

namespace moecheck::optimized {
namespace {

bool runs_each_once(int threads, std::int64_t tasks) {
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
  std::atomic<bool> worker_in_range{true};
  parallel_for(threads, tasks, [&](std::int64_t task, int worker) {
    ++runs[static_cast<std::size_t>(task)];
    if (worker < 0 || worker >= threads) worker_in_range = false;
  });
  for (const auto& count : runs)
    if (count != 1) return false;
  return worker_in_range;
}

TEST(ThreadPool, RunsEachTaskOnce) {
  for (const int threads : {1, 2, 3, 8, 2})
    for (const std::int64_t tasks : {0, 1, 2, 7, 1000})
      EXPECT_TRUE(runs_each_once(threads, tasks)) << threads;
}

TEST(ThreadPool, SurvivesManyShortCalls) {
  for (int i = 0; i < 2000; ++i) ASSERT_TRUE(runs_each_once(3, 5));
}

TEST(ThreadPool, ResultsAreVisibleToTheCaller) {
  std::vector<std::int64_t> squares(10000);
  parallel_for(4, 10000, [&](std::int64_t i, int) { squares[static_cast<std::size_t>(i)] = i * i; });
  for (std::int64_t i = 0; i < 10000; ++i) ASSERT_EQ(squares[static_cast<std::size_t>(i)], i * i);
}

TEST(ThreadPool, TakesCallsFromSeveralThreadsAndFromTasks) {
  std::atomic<int> right{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int i = 0; i < 50; ++i) right += runs_each_once(3, 20);
    });
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(right, 200);
  std::atomic<int> inner{0};
  parallel_for(3, 6, [&](std::int64_t, int) { inner += runs_each_once(3, 10); });
  EXPECT_EQ(inner, 6);
}

// The runner forks to survive a crashing kernel: the child has none of its parent's threads.
TEST(ThreadPool, WorksInAForkedChild) {
  ASSERT_TRUE(runs_each_once(3, 100));
  const pid_t child = fork();
  if (child == 0) _exit(runs_each_once(3, 100) ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace moecheck::optimized
