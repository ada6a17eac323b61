#include "harness/workers.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <system_error>
#include <vector>

#include "harness/fault.h"

namespace moecheck::harness {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

// The next item nobody has taken, shared by all children.
class Counter {
 public:
  Counter() {
    void* p = mmap(nullptr, sizeof(std::atomic<std::uint64_t>), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) fail("mmap");
    next_ = new (p) std::atomic<std::uint64_t>(0);
  }
  ~Counter() { munmap(next_, sizeof *next_); }
  Counter(const Counter&) = delete;
  Counter& operator=(const Counter&) = delete;
  std::uint64_t take() { return next_->fetch_add(1); }

 private:
  std::atomic<std::uint64_t>* next_;
};

// Messages from child to parent: kind, item, length, text.
struct Header {
  char kind[8];  // "start", "done" or "lost"
  std::uint64_t item, length;
};

bool write_all(int fd, const void* data, std::size_t n) {
  const char* p = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t written = write(fd, p, n);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    p += written;
    n -= static_cast<std::size_t>(written);
  }
  return true;
}

void send(int fd, const char* kind, std::uint64_t item, const std::string& text) {
  Header h{};
  std::strncpy(h.kind, kind, sizeof h.kind - 1);
  h.item = item;
  h.length = text.size();
  // The parent is gone when this fails: there is nobody left to work for.
  if (!write_all(fd, &h, sizeof h) || !write_all(fd, text.data(), text.size())) _exit(3);
}

void end_here(int status, void*) {
  std::fflush(nullptr);
  _exit(status);
}

struct Worker {
  pid_t pid = -1;
  int fd = -1;
  std::string buffer;
  std::optional<std::uint64_t> open;  // the item it is at
  Clock::time_point since;
  bool timed_out = false;
  std::string last_words;  // of one that lost its item and ends
};

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("exit status {}", WEXITSTATUS(status));
}

class Pool {
 public:
  Pool(std::size_t n, const WorkerOptions& options, const WorkerCallbacks& callbacks)
      : n_(n), options_(options), callbacks_(callbacks) {}

  ~Pool() {
    for (Worker& w : workers_) {
      if (w.pid <= 0) continue;
      kill(w.pid, SIGKILL);
      waitpid(w.pid, nullptr, 0);
      close(w.fd);
    }
  }

  void run() {
    const std::size_t jobs = std::min<std::size_t>(static_cast<std::size_t>(std::max(1, options_.jobs)), n_);
    for (std::size_t i = 0; i < jobs; ++i) start();
    while (delivered_ < n_) wait();
  }

 private:
  struct Outcome {
    std::string text;
    bool lost = false, timeout = false;
  };

  void start() {
    int ends[2];
    if (pipe(ends) != 0) fail("pipe");
    // Or a child that calls exit() prints once more what waits in the buffers.
    std::fflush(stdout);
    std::fflush(stderr);
    const pid_t pid = fork();
    if (pid < 0) fail("fork");
    if (pid == 0) {
      // Someone else's code may call exit(): it must not run the destructors of what the parent still uses.
      on_exit(end_here, nullptr);
      close(ends[0]);
      for (std::uint64_t item = counter_.take(); item < n_; item = counter_.take()) {
        send(ends[1], "start", item, {});
        send(ends[1], "done", item, work(ends[1], item));
      }
      close(ends[1]);
      _exit(0);
    }
    close(ends[1]);
    Worker w;
    w.pid = pid;
    w.fd = ends[0];
    workers_.push_back(std::move(w));
  }

  // In a child. Nothing is thrown past it: the stack below is the parent's.
  std::string work(int fd, std::uint64_t item) {
    std::string why;
    try {
      return callbacks_.work(item);
    } catch (const ProcessBroken& e) {
      why = e.why;
    } catch (const std::exception& e) {
      why = fmt::format("an exception: {}", e.what());
    }
    send(fd, "lost", item, why);
    _exit(3);
  }

  void wait() {
    std::vector<pollfd> fds;
    for (const Worker& w : workers_) fds.push_back({w.fd, POLLIN, 0});
    if (poll(fds.data(), fds.size(), 200) < 0 && errno != EINTR) fail("poll");
    for (std::size_t i = fds.size(); i-- > 0;) {
      if (fds[i].revents != 0) read_from(i);
    }
    for (Worker& w : workers_) {
      if (!w.open || w.timed_out ||
          std::chrono::duration<double>(Clock::now() - w.since).count() <= options_.timeout_seconds)
        continue;
      w.timed_out = true;
      kill(w.pid, SIGKILL);
    }
    deliver();
  }

  void read_from(std::size_t i) {
    Worker& w = workers_[i];
    char chunk[1 << 16];
    const ssize_t got = read(w.fd, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) return;
    if (got <= 0) {
      ended(i);
      return;
    }
    w.buffer.append(chunk, static_cast<std::size_t>(got));
    Header h;
    std::size_t at = 0;
    while (w.buffer.size() - at >= sizeof h) {
      std::memcpy(&h, w.buffer.data() + at, sizeof h);
      if (w.buffer.size() - at < sizeof h + h.length) break;
      if (std::strcmp(h.kind, "start") == 0) {
        w.open = h.item;
        w.since = Clock::now();
      } else if (std::strcmp(h.kind, "lost") == 0) {
        w.last_words = w.buffer.substr(at + sizeof h, h.length);
      } else {
        w.open.reset();
        outcomes_[h.item] = {w.buffer.substr(at + sizeof h, h.length)};
      }
      at += sizeof h + h.length;
    }
    w.buffer.erase(0, at);
  }

  void ended(std::size_t i) {
    Worker w = std::move(workers_[i]);
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(i));
    close(w.fd);
    int status = 0;
    while (waitpid(w.pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (w.open) {
      outcomes_[*w.open] = {
          w.timed_out            ? fmt::format("no end after {} s", options_.timeout_seconds)
          : !w.last_words.empty() ? w.last_words
                                  : how_it_ended(status),
          true, w.timed_out};
      start();  // someone must do what is left
    } else if (status != 0) {
      throw std::runtime_error("a worker ended between cases: " + how_it_ended(status));
    }
  }

  void deliver() {
    for (auto it = outcomes_.find(delivered_); it != outcomes_.end(); it = outcomes_.find(delivered_)) {
      Outcome outcome = std::move(it->second);
      outcomes_.erase(it);
      const std::size_t item = delivered_++;
      if (outcome.lost && !HARNESS_FAULT(kWorkersLostIsDone))
        callbacks_.lost(item, std::move(outcome.text), outcome.timeout);
      else
        callbacks_.done(item, std::move(outcome.text));
    }
  }

  const std::size_t n_;
  const WorkerOptions& options_;
  const WorkerCallbacks& callbacks_;
  Counter counter_;
  std::vector<Worker> workers_;
  std::map<std::uint64_t, Outcome> outcomes_;
  std::size_t delivered_ = 0;
};

}  // namespace

void run_in_workers(std::size_t n, const WorkerOptions& options, const WorkerCallbacks& callbacks) {
  if (n == 0) return;
  Pool(n, options, callbacks).run();
}

}  // namespace moecheck::harness
