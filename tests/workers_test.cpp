// Worker processes: what their parent must not lose.
#include "harness/workers.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <set>

namespace moecheck::harness {
namespace {

int* handlers_run = nullptr;  // shared with children

TEST(Workers, ExitInAWorkerRunsNothingOfItsParent) {
  void* shared = mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  handlers_run = static_cast<int*>(shared);
  ASSERT_EQ(std::atexit([] { ++*handlers_run; }), 0);
  std::string how;
  WorkerCallbacks callbacks;
  callbacks.work = [](std::size_t) -> std::string { std::exit(7); };
  callbacks.done = [](std::size_t, const std::string&) { ADD_FAILURE() << "it ended before it answered"; };
  callbacks.lost = [&](std::size_t, const std::string& end, bool) { how = end; };
  run_in_workers(1, {1, 30}, callbacks);
  EXPECT_EQ(how, "exit status 7");
  EXPECT_EQ(*handlers_run, 0) << "the child ran what its parent had registered";
}

// What a child answers: "pid PID", or what the request asks for.
std::string obey(const std::string& request, const Workers::Keep& keep) {
  if (request == "pid") return std::to_string(getpid());
  if (request == "keep and die") {
    keep("a first part");
    keep("the whole");
    std::abort();
  }
  if (request == "die") std::abort();
  if (request == "die soon") {
    signal(SIGALRM, SIG_DFL);
    ualarm(20000, 0);
  }
  if (request == "large") return std::string(300000, 'x');
  if (request == "hang") {
    keep("before it");
    pause();
  }
  return request + "!";
}

// Requests in, answers out; "lost how [kept]" for those without.
std::vector<std::string> answers(Workers& workers, const std::vector<std::string>& requests) {
  std::vector<std::string> all;
  workers.run(
      requests, [&](std::size_t, std::string text) { all.push_back(std::move(text)); },
      [&](std::size_t, const std::string& how, bool timeout, const std::string& kept) {
        all.push_back((timeout ? "timeout: " : "lost: ") + how + " [" + kept + "]");
      });
  return all;
}

TEST(Workers, StayFromRunToRun) {
  Workers workers({1, 30}, obey);
  const std::vector<std::string> first = answers(workers, {"pid", "pid"}), second = answers(workers, {"pid"});
  EXPECT_EQ(std::set<std::string>(first.begin(), first.end()).size(), 1u);
  EXPECT_EQ(second.front(), first.front()) << "a new process for the second run";
  EXPECT_NE(first.front(), std::to_string(getpid()));
  EXPECT_TRUE(answers(workers, {}).empty());
}

TEST(Workers, WhatAnItemKeptIsLeftOfIt) {
  Workers workers({2, 3}, obey);
  EXPECT_EQ(answers(workers, {"a", "keep and die", "b", "die", "hang", "c"}),
            (std::vector<std::string>{"a!", "lost: signal 6 (Aborted) [the whole]", "b!",
                                      "lost: signal 6 (Aborted) []", "timeout: no end after 3 s [before it]",
                                      "c!"}));
  EXPECT_EQ(answers(workers, {"d", "e"}), (std::vector<std::string>{"d!", "e!"}));
}

// Its answers to the run that was given up must not be taken for those of the next.
TEST(Workers, ARunThatThrowsLeavesNothingBehind) {
  Workers workers({2, 30}, obey);
  const auto refuses = [](std::size_t, const std::string&) { throw std::runtime_error("no more"); };
  EXPECT_THROW(workers.run(std::vector<std::string>(50, "old"), refuses,
                           [](std::size_t, const std::string&, bool, const std::string&) {}),
               std::runtime_error);
  EXPECT_EQ(answers(workers, {"x", "y", "z"}), (std::vector<std::string>{"x!", "y!", "z!"}));
}

TEST(Workers, DeathWithNothingToDoCostsNoItem) {
  Workers workers({1, 30}, obey);
  EXPECT_EQ(answers(workers, {"die soon"}), (std::vector<std::string>{"die soon!"}));
  usleep(200000);
  EXPECT_EQ(answers(workers, {"a", "b"}), (std::vector<std::string>{"a!", "b!"}));
}

// The time of an item ends with its answer, not when its parent comes to read that.
TEST(Workers, AParentThatIsBusyMakesNoTimeouts) {
  Workers workers({2, 2}, obey);
  std::vector<std::size_t> sizes;
  workers.run(
      {"a", "large", "large", "b", "large"},
      [&](std::size_t, const std::string& text) {
        sizes.push_back(text.size());
        if (sizes.size() == 1) usleep(2500000);
      },
      [&](std::size_t item, const std::string& how, bool, const std::string&) {
        ADD_FAILURE() << item << " " << how;
      });
  EXPECT_EQ(sizes, (std::vector<std::size_t>{2, 300000, 300000, 2, 300000}));
}

TEST(Workers, LongRequestsAndAnswersComeWhole) {
  Workers workers({2, 30}, obey);
  const std::string large(3 << 20, 'x');
  const std::vector<std::string> got = answers(workers, {large, "s", large});
  EXPECT_EQ(got, (std::vector<std::string>{large + "!", "s!", large + "!"}));
}

}  // namespace
}  // namespace moecheck::harness
