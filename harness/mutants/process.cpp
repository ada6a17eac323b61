#include "harness/mutants/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <system_error>

namespace moecheck::harness::mutants {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kKept = 1u << 20;

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

[[noreturn]] void become(const std::vector<std::string>& arguments,
                         const std::vector<std::pair<std::string, std::string>>& environment, int output) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);
  if (const int nothing = open("/dev/null", O_RDONLY); nothing >= 0) dup2(nothing, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

}  // namespace

Finished run_program(const std::vector<std::string>& arguments,
                     const std::vector<std::pair<std::string, std::string>>& environment,
                     double timeout_seconds) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail("pipe");
  const auto start = Clock::now();
  const auto since = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const pid_t pid = fork();
  if (pid < 0) fail("fork");
  if (pid == 0) become(arguments, environment, ends[1]);
  close(ends[1]);
  Finished f;
  for (char chunk[1 << 16];;) {
    const double left = timeout_seconds - since();
    if (left <= 0 && !f.timeout) {
      f.timeout = true;
      kill(-pid, SIGKILL);
    }
    pollfd waiting{ends[0], POLLIN, 0};
    const int wait_ms = f.timeout ? 1000 : static_cast<int>(std::min(left, 1.0) * 1000) + 1;
    const int ready = poll(&waiting, 1, wait_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0 && f.timeout) break;  // someone else holds the pipe
    if (ready <= 0) continue;
    const ssize_t got = read(ends[0], chunk, sizeof chunk);
    if (got <= 0) break;
    f.output.append(chunk, static_cast<std::size_t>(got));
    if (f.output.size() > 2 * kKept) f.output.erase(0, f.output.size() - kKept);
  }
  close(ends[0]);
  while (waitpid(pid, &f.status, 0) < 0 && errno == EINTR) {
  }
  kill(-pid, SIGKILL);  // what it left behind
  f.seconds = since();
  return f;
}

}  // namespace moecheck::harness::mutants
