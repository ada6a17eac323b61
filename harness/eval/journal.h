#pragma once
// What a run has finished, on disk from the moment it is finished: OUT/journal.jsonl, only ever appended to. The first line
// says what the run is, each further line is one sample (harness/tasks/sample.h). Killed at any moment, the file lacks at
// most the end of its last line, and the run goes on from it without asking anything twice.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "harness/tasks/sample.h"

namespace moecheck::harness::eval {

// All that decides what is asked of whom, as name and value in the order they are shown: two runs whose settings are equal
// may share a journal.
using RunSettings = std::vector<std::pair<std::string, std::string>>;

class Journal {
 public:
  // Makes `directory` and a new journal in it, or with `resume` opens the one that is there; a new one too where there is
  // none. Throws UsageError: there is one already (without resume), it is of other settings (names the first difference),
  // of another program, damaged before its last line, being written by another process, or not writable.
  Journal(const std::string& directory, const RunSettings& settings, bool resume);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // What was there when it was opened, the last line of a document counting. Failed ones too: they are to be asked again.
  const std::vector<Sample>& found() const { return found_; }
  // The results file that was written from exactly these samples; empty: none was.
  const std::string& results() const { return results_; }
  std::int64_t dropped_bytes() const {
    return dropped_;
  }  // of a line that was being written when the run was killed

  // Handed to the system before this returns: no end of this process can lose it. Throws UsageError (disk full).
  void append(const Sample& sample);
  void append_results(const std::string& path);
  void sync();  // and to the disk: no end of the machine can lose it
  const std::string& path() const { return path_; }

 private:
  void read(const RunSettings& settings);
  void write(std::string line);

  std::string path_, results_;
  std::vector<Sample> found_;
  std::int64_t dropped_ = 0;
  int file_ = -1;
  bool dirty_ = false;
};

}  // namespace moecheck::harness::eval
