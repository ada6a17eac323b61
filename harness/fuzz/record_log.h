#pragma once
// Records of long and of many runs: kept as they are made, and joined afterwards.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "harness/fuzz/tally.h"
#include "harness/record.h"

namespace moecheck::harness {

// Appends to a file of records, each line at once, so that a killed process leaves whole lines and at most one torn one at the end.
// Such a torn line of an earlier process is cut off when the file is opened.
class RecordLog {
 public:
  explicit RecordLog(const std::string& path);  // throws UsageError
  ~RecordLog();
  RecordLog(const RecordLog&) = delete;
  RecordLog& operator=(const RecordLog&) = delete;

  void write(const Record& r);
  std::int64_t torn_bytes() const { return torn_; }  // that were cut off

 private:
  std::string path_;
  int file_ = -1;
  std::int64_t torn_ = 0;
};

struct Merged {
  CampaignTally tally;
  std::int64_t lines = 0, duplicates = 0;  // written, and left out
  std::vector<std::string>
      notes;  // what a reader should know: torn lines, several commits, verdicts that disagree
};

// Joins files of records into `output`, which appears whole or not at all. Of records of the same case, implementation and commit
// the first stays, and each further one with another verdict. The last line of a file may be torn: it is left out, with a note.
// Throws UsageError, with path and line: for another schema, for a damaged line that is not the last, and for records of different
// versions of moecheck, whose operators need not mean the same.
Merged merge_records(std::span<const std::string> paths, const std::string& output);

}  // namespace moecheck::harness
