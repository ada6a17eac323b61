#pragma once
// Work in child processes: what crashes or hangs costs one item, not the run.
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

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

// Processes that stay from run to run: a context on a GPU costs more than most cases. Each ends after a minute or so between two
// items, so that what a kernel leaks does not add up.
class Workers {
 public:
  // Makes a text safe: it is what is left of the answer if the item is lost from here on. The last one counts.
  using Keep = std::function<void(const std::string& text)>;
  // In a child: answers a request. What it throws makes the item a lost one.
  using Work = std::function<std::string(const std::string& request, const Keep& keep)>;
  // In the parent, in order of items.
  using Done = std::function<void(std::size_t item, std::string text)>;
  // In the parent, in order of items: the child died of a signal or exit status ("signal 11 (Segmentation fault)"), threw, or ran
  // past the timeout. `kept`: the item's last kept text, or nothing.
  using Lost = std::function<void(std::size_t item, std::string how, bool timeout, std::string kept)>;

  Workers(const WorkerOptions& options, Work work);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // Each request exactly once. Throws std::system_error when processes or sockets cannot be made.
  // Call it while this process has a single thread; not from `done` or `lost` of the same workers.
  void run(const std::vector<std::string>& requests, const Done& done, const Lost& lost);

 private:
  class Pool;
  std::unique_ptr<Pool> pool_;
};

struct WorkerCallbacks {
  // As those of Workers, with numbers for requests.
  std::function<std::string(std::size_t item)> work;
  std::function<void(std::size_t item, std::string text)> done;
  std::function<void(std::size_t item, std::string how, bool timeout)> lost;
};

// Items [0, n) in workers of their own, each exactly once.
void run_in_workers(std::size_t n, const WorkerOptions& options, const WorkerCallbacks& callbacks);

}  // namespace moecheck::harness
