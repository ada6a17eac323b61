// Worker processes: what their parent must not lose.
#include "harness/workers.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

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

}  // namespace
}  // namespace moecheck::harness
