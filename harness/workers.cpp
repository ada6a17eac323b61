#include "harness/workers.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "harness/fault.h"

// ThreadSanitizer goes on after a report, and a child that goes on is one that did well: a race would be told and nothing would
// fail. TSAN_OPTIONS still decides otherwise.
#if defined(__SANITIZE_THREAD__)
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() {
  return "halt_on_error=1";
}
#endif

namespace moecheck::harness {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

constexpr double kWorkerSeconds = 60;  // after which a process gets no further item

// Messages. From parent to child: "ask". From child to parent: "kept", then "done" or "lost".
struct Header {
  char kind[8];
  std::uint64_t length;
};

// No signal where the other side is gone: errors say so.
bool write_all(int fd, const void* data, std::size_t n) {
  const char* p = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t written = ::send(fd, p, n, MSG_NOSIGNAL);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    p += written;
    n -= static_cast<std::size_t>(written);
  }
  return true;
}

bool send(int fd, const char* kind, const std::string& text) {
  Header h{};
  std::strncpy(h.kind, kind, sizeof h.kind - 1);
  h.length = text.size();
  return write_all(fd, &h, sizeof h) && write_all(fd, text.data(), text.size());
}

// In a child. The parent is gone when sending fails: there is nobody left to work for.
void answer(int fd, const char* kind, const std::string& text) {
  if (!send(fd, kind, text)) _exit(3);
}

// False at the end.
bool read_all(int fd, void* data, std::size_t n) {
  char* p = static_cast<char*>(data);
  while (n > 0) {
    const ssize_t got = read(fd, p, n);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    p += got;
    n -= static_cast<std::size_t>(got);
  }
  return true;
}

void end_here(int status, void*) {
  std::fflush(nullptr);
  _exit(status);
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("exit status {}", WEXITSTATUS(status));
}

// Of a child that has nothing to say.
bool hung_up(int fd) {
  pollfd one{fd, POLLIN, 0};
  return poll(&one, 1, 0) > 0;
}

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

}  // namespace

class Workers::Pool {
 public:
  Pool(const WorkerOptions& options, Work work) : options_(options), work_(std::move(work)) {}

  ~Pool() {
    while (!workers_.empty()) end(workers_.size() - 1);
  }

  void run(const std::vector<std::string>& requests, const Done& done, const Lost& lost) {
    requests_ = &requests, done_ = &done, lost_ = &lost;
    next_ = delivered_ = 0;
    outcomes_.clear();
    // What a callback threw in an earlier run left items open: nobody wants their answers.
    for (std::size_t i = workers_.size(); i-- > 0;)
      if (workers_[i].open) end(i);
    while (delivered_ < requests.size()) {
      hand_out();
      wait();
      deliver();
    }
  }

 private:
  struct Worker {
    pid_t pid = -1;
    int fd = -1;
    Clock::time_point born;
    std::string buffer;
    std::optional<std::size_t> open;  // the item it is at
    Clock::time_point since;
    bool timed_out = false;
    std::string kept, last_words;  // of the open item; last words: it is lost and the process ends
  };
  struct Outcome {
    std::string text;  // of a lost one: how
    bool lost = false, timeout = false;
    std::string kept;
  };

  void hand_out() {
    for (std::size_t i = workers_.size(); i-- > 0;)
      if (!workers_[i].open && seconds_since(workers_[i].born) > kWorkerSeconds) end(i);
    const auto jobs = static_cast<std::size_t>(std::max(1, options_.jobs));
    for (std::size_t i = 0; next_ < requests_->size(); ++i) {
      if (i == workers_.size()) {
        if (i >= jobs) return;
        start();
      }
      if (workers_[i].open) continue;
      // One that died while it had nothing to do costs no item: another is asked.
      if (hung_up(workers_[i].fd)) {
        ended(i);
        start();
        std::swap(workers_[i], workers_.back());
      }
      Worker& w = workers_[i];
      w.open = next_++;
      w.since = Clock::now();
      w.kept.clear();
      (void)send(w.fd, "ask", (*requests_)[*w.open]);  // where it fails, reading from it tells
    }
  }

  void start() {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) fail("socketpair");
    // Or a child that calls exit() prints once more what waits in the buffers.
    std::fflush(stdout);
    std::fflush(stderr);
    const pid_t parent = getpid(), pid = fork();
    if (pid < 0) fail("fork");
    if (pid == 0) {
      // Someone else's code may call exit(): it must not run the destructors of what the parent still uses.
      on_exit(end_here, nullptr);
      // The parent killed: no item of it is wanted any more, and none that hangs may stay.
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(3);
      close(ends[0]);
      for (const Worker& w : workers_) close(w.fd);  // or those would not see the parent go
      serve(ends[1]);
    }
    close(ends[1]);
    Worker w;
    w.pid = pid;
    w.fd = ends[0];
    w.born = Clock::now();
    workers_.push_back(std::move(w));
  }

  // In a child. Nothing is thrown past it: the stack below is the parent's.
  [[noreturn]] void serve(int fd) {
    Header h;
    std::string request;
    while (read_all(fd, &h, sizeof h)) {
      request.resize(h.length);
      if (!read_all(fd, request.data(), h.length)) break;
      std::string why;
      try {
        answer(fd, "done", work_(request, [fd](const std::string& text) { answer(fd, "kept", text); }));
        continue;
      } catch (const ProcessBroken& e) {
        why = e.why;
      } catch (const std::exception& e) {
        why = fmt::format("an exception: {}", e.what());
      }
      answer(fd, "lost", why);
      _exit(3);
    }
    _exit(0);
  }

  void wait() {
    std::vector<pollfd> fds;
    for (const Worker& w : workers_) fds.push_back({w.fd, POLLIN, 0});
    if (poll(fds.data(), fds.size(), 200) < 0 && errno != EINTR) fail("poll");
    // What it said in time counts, however late this process looks.
    for (std::size_t i = fds.size(); i-- > 0;) {
      Worker& w = workers_[i];
      if (fds[i].revents != 0) {
        read_from(i);
      } else if (w.open && w.buffer.empty() && seconds_since(w.since) > options_.timeout_seconds) {
        w.timed_out = true;
        ended(i);
      }
    }
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
      std::string text = w.buffer.substr(at + sizeof h, h.length);
      at += sizeof h + h.length;
      if (std::strcmp(h.kind, "kept") == 0) {
        w.kept = std::move(text);
      } else if (std::strcmp(h.kind, "lost") == 0) {
        w.last_words = std::move(text);
      } else {
        outcomes_[*w.open] = {std::move(text), false, false, {}};
        w.open.reset();
      }
    }
    w.buffer.erase(0, at);
  }

  void ended(std::size_t i) {
    const Worker w = workers_[i];
    const int status = end(i);
    if (w.open) {
      outcomes_[*w.open] = {w.timed_out ? fmt::format("no end after {} s", options_.timeout_seconds)
                            : !w.last_words.empty() ? w.last_words
                                                    : how_it_ended(status),
                            true, w.timed_out, w.kept};
    } else if (status != 0) {
      fmt::print(stderr, "moecheck: a worker process ended between two items: {}\n", how_it_ended(status));
    }
  }

  // One without an item ends by itself when nobody can ask it any more. Returns its status.
  int end(std::size_t i) {
    const Worker& w = workers_[i];
    const pid_t pid = w.pid;
    if (w.open) kill(pid, SIGKILL);
    shutdown(w.fd, SHUT_RDWR);  // closing is not enough where other children have inherited it
    close(w.fd);
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(i));
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
  }

  void deliver() {
    for (auto it = outcomes_.find(delivered_); it != outcomes_.end(); it = outcomes_.find(delivered_)) {
      Outcome outcome = std::move(it->second);
      outcomes_.erase(it);
      const std::size_t item = delivered_++;
      if (outcome.lost && !HARNESS_FAULT(kWorkersLostIsDone))
        (*lost_)(item, std::move(outcome.text), outcome.timeout, std::move(outcome.kept));
      else
        (*done_)(item, std::move(outcome.text));
    }
  }

  const WorkerOptions options_;
  const Work work_;
  std::vector<Worker> workers_;
  // Of the run at hand:
  const std::vector<std::string>* requests_ = nullptr;
  const Done* done_ = nullptr;
  const Lost* lost_ = nullptr;
  std::size_t next_ = 0, delivered_ = 0;
  std::map<std::size_t, Outcome> outcomes_;
};

Workers::Workers(const WorkerOptions& options, Work work)
    : pool_(std::make_unique<Pool>(options, std::move(work))) {}

Workers::~Workers() = default;

void Workers::run(const std::vector<std::string>& requests, const Done& done, const Lost& lost) {
  pool_->run(requests, done, lost);
}

void run_in_workers(std::size_t n, const WorkerOptions& options, const WorkerCallbacks& callbacks) {
  std::vector<std::string> numbers;
  for (std::size_t i = 0; i < n; ++i) numbers.push_back(std::to_string(i));
  Workers workers(options, [&](const std::string& number, const Workers::Keep&) {
    return callbacks.work(std::stoull(number));
  });
  workers.run(numbers, callbacks.done,
              [&](std::size_t item, std::string how, bool timeout, const std::string&) {
                callbacks.lost(item, std::move(how), timeout);
              });
}

}  // namespace moecheck::harness
