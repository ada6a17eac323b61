#pragma once
// The command from outside: its exit code and what it printed.
#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace moecheck {

struct Ran {
  int code = -1;
  std::string text;  // stdout and stderr
  bool says(const std::string& words) const { return text.find(words) != std::string::npos; }
};

// Through a shell: quote what needs it. A process that a signal ended has 128 and its number.
inline Ran run_moecheck(const std::string& arguments) {
  Ran r;
  FILE* pipe = popen((std::string(MOECHECK_BINARY) + " " + arguments + " 2>&1").c_str(), "r");
  char chunk[4096];
  for (std::size_t n; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;) r.text.append(chunk, n);
  const int status = pclose(pipe);
  r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return r;
}

}  // namespace moecheck
