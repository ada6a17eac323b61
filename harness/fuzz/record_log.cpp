#include "harness/fuzz/record_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <unordered_map>

#include "harness/atomic_file.h"
#include "harness/case.h"
#include "harness/json.h"
#include "harness/random.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

[[noreturn]] void cannot(const std::string& path, const char* what) {
  throw UsageError(fmt::format("{}: cannot be {}: {}", printable(path), what, std::strerror(errno)));
}

// Bytes behind the last newline.
off_t torn_tail(int file, off_t size) {
  char block[4096];
  for (off_t end = size; end > 0;) {
    const off_t begin = std::max<off_t>(0, end - static_cast<off_t>(sizeof block));
    const ssize_t got = pread(file, block, static_cast<std::size_t>(end - begin), begin);
    if (got <= 0) return 0;
    for (ssize_t i = got; i-- > 0;)
      if (block[i] == '\n') return size - (begin + i + 1);
    end = begin;
  }
  return size;
}

class Merger {
 public:
  explicit Merger(const std::string& output) : file_(output) {}

  void add_file(const std::string& path) {
    std::ifstream in(path);
    if (!in) cannot(path, "opened");
    std::int64_t number = 0;
    for (std::string line; std::getline(in, line);) {
      ++number;
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      const bool last = in.eof();  // no newline ends it
      try {
        add(line, record_from_json(line));
      } catch (const UsageError& e) {
        const std::string what = fmt::format("{}:{}: {}", printable(path), number, e.what());
        if (!last || nlohmann::json::accept(line)) throw UsageError(what);
        merged.notes.push_back(
            fmt::format("{}:{}: the last line is torn, as a killed process leaves it: left out",
                        printable(path), number));
      }
    }
    if (in.bad() || !in.eof())
      throw UsageError(
          fmt::format("{}: reading stopped after line {}: is it a directory?", printable(path), number));
  }

  void finish() {
    if (commits_.size() > 1)
      merged.notes.push_back(
          fmt::format("they are of {} commits: {}", commits_.size(), fmt::join(commits_, ", ")));
    if (disagreements_ > 0)
      merged.notes.push_back(
          fmt::format("{} differ in verdict from an earlier record of the same case, implementation and "
                      "commit: all were kept",
                      count(disagreements_, "record")));
    file_.commit();
  }

  Merged merged;

 private:
  void add(const std::string& line, const Record& r) {
    if (merged.lines + merged.duplicates == 0) version_ = r.env.version;
    if (r.env.version != version_)
      throw UsageError(
          fmt::format("written by moecheck {}, the records before it by {}: what a case means may have "
                      "changed; merge each version by itself",
                      printable(r.env.version), printable(version_)));
    commits_.insert(printable(r.env.commit));
    const std::uint64_t key =
        Random(0, fmt::format("{}\n{}\n{}", r.case_line, r.implementation, r.env.commit)).bits(0);
    const unsigned verdict = 1u << static_cast<unsigned>(r.result.verdict);
    unsigned& seen = seen_[key];
    if ((seen & verdict) != 0) {
      ++merged.duplicates;
      return;
    }
    disagreements_ += seen != 0;
    seen |= verdict;
    file_.write(line + "\n");
    merged.tally.add(r);
    ++merged.lines;
  }

  AtomicFile file_;
  std::string version_;
  std::set<std::string> commits_;
  std::unordered_map<std::uint64_t, unsigned> seen_;  // verdicts, a bit each
  std::int64_t disagreements_ = 0;
};

}  // namespace

RecordLog::RecordLog(const std::string& path) : path_(path) {
  file_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) cannot(path, "written");
  struct stat status {};
  if (fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) return;  // a pipe has no past
  torn_ = torn_tail(file_, status.st_size);
  if (torn_ > 0 && ftruncate(file_, status.st_size - torn_) != 0) cannot(path, "shortened");
}

RecordLog::~RecordLog() {
  if (file_ >= 0) close(file_);
}

void RecordLog::write(const Record& r) {
  const std::string line = to_json(r) + "\n";
  for (std::size_t at = 0; at < line.size();) {
    const ssize_t n = ::write(file_, line.data() + at, line.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) cannot(path_, "written");
    at += static_cast<std::size_t>(n);
  }
}

Merged merge_records(std::span<const std::string> paths, const std::string& output) {
  Merger merger(output);
  for (const std::string& path : paths) merger.add_file(path);
  merger.finish();
  return std::move(merger.merged);
}

}  // namespace moecheck::harness
