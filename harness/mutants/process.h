#pragma once
// One program run to its end, with its output.
#include <string>
#include <utility>
#include <vector>

namespace moecheck::harness::mutants {

struct Finished {
  int status = -1;  // as waitpid gives it
  bool timeout = false;
  std::string output;  // standard output and error, the last MiB
  double seconds = 0;
};

// `environment`: variables set beside those of this process. The program and its children are killed after `timeout_seconds`, the
// program also when this process ends. Throws std::system_error when it cannot be started.
Finished run_program(const std::vector<std::string>& arguments,
                     const std::vector<std::pair<std::string, std::string>>& environment,
                     double timeout_seconds);

}  // namespace moecheck::harness::mutants
