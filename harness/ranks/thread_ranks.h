#pragma once
// Ranks as threads of this process: always there, and the strictest of the communicators. A transfer's rows are copied at the last
// legal moment, when all ranks wait for it, so that a buffer reused before the wait always shows.
//
// A rank that fails, ends early or never comes does not leave the others waiting: they get an error that names it.
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "harness/ranks/communicator.h"

namespace moecheck::harness::ranks {

struct ThreadOptions {
  int buffers = Communicator::kBuffers;
  std::chrono::milliseconds patience{60'000};  // with a rank that does not come
};

// Of each rank what went wrong with it, "" for nothing; `first` is the rank whose error came first, or -1.
struct RankErrors {
  std::vector<std::string> messages;
  int first = -1;
};

// Calls body(communicator) in `size` threads and returns when all have ended.
RankErrors run_thread_ranks(int size, const std::function<void(Communicator&)>& body,
                            ThreadOptions options = {});

}  // namespace moecheck::harness::ranks
