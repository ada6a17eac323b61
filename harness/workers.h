#pragma once
// Work in child processes: what crashes or hangs costs one item, not the run.
#include <cstddef>
#include <functional>
#include <string>

namespace moecheck::harness {

// Thrown by work that leaves its process unusable (a GPU after an illegal access): the item is lost with these words, and the
// items after it get a new process. No std::exception, so that nobody on the way takes it for a failure like others.
struct ProcessBroken {
  std::string why;
};

struct WorkerOptions {
  int jobs = 1;
  double timeout_seconds = 60;  // per item, from its start to its end
};

struct WorkerCallbacks {
  // In a child: does item i and returns text for the parent. What it throws makes the item a lost one.
  std::function<std::string(std::size_t item)> work;
  // In the parent, in order of items.
  std::function<void(std::size_t item, std::string text)> done;
  // In the parent, in order of items: the child died of a signal or exit status ("signal 11 (Segmentation fault)"), threw, or ran
  // past the timeout.
  std::function<void(std::size_t item, std::string how, bool timeout)> lost;
};

// Items [0, n), each exactly once. Throws std::system_error when processes or pipes cannot be made.
// Call it while this process has a single thread.
void run_in_workers(std::size_t n, const WorkerOptions& options, const WorkerCallbacks& callbacks);

}  // namespace moecheck::harness
