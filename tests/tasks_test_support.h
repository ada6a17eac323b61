#pragma once
// What the tests of the tasks share: lm_eval's own files, folders that vanish, and the words of a refusal.
#include <stdlib.h>

#include <filesystem>
#include <string>

#include "harness/case.h"

namespace moecheck::harness {

inline const std::string kGolden = MOECHECK_SOURCE_DIR "/datasets/golden/";

template <class Work>
std::string message_of(Work work) {
  try {
    work();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

struct TemporaryFolder {
  std::string path = [] {
    std::string name = (std::filesystem::temp_directory_path() / "moecheck_tasks_XXXXXX").string();
    return std::string(mkdtemp(name.data()));
  }();
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
};

}  // namespace moecheck::harness
