// Which of the formats a profile has, and its times from zero.
#include "harness/streams/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/case.h"
#include "harness/tasks/files.h"
#include "harness/text.h"

namespace moecheck::harness::streams {
namespace {

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw UsageError(fmt::format("{}: {}", printable(path), what));
}

void refuse_binary(std::string_view text, const std::string& path) {
  if (text.starts_with("\x1f\x8b"))
    refuse(path,
           fmt::format("is packed with gzip: unpack it (gunzip -k {}) and read the .json", shell_word(path)));
  if (text.starts_with("SQLite format 3"))
    refuse(path,
           "is an SQLite database: write its CUPTI tables as JSON lines first (reports/stream_program.md has "
           "the commands)");
}

// A record a line: the first line is an object by itself, and no Chrome trace on one line.
bool one_record_a_line(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == text.npos || text[begin] != '{') return false;
  std::string_view line = text.substr(begin, std::min(text.find('\n', begin), text.size()) - begin);
  line = line.substr(0, line.find_last_not_of(" \t\r") + 1);
  return line.ends_with('}') && line.find("\"traceEvents\"") == line.npos &&
         line.find("\"kind\"") != line.npos;
}

template <class Each>
void each_time(Profile& p, Each each) {
  for (Activity& a : p.activities) each(a.start), each(a.end);
  for (HostCall& c : p.calls) each(c.start), each(c.end);
  for (SyncRecord& s : p.syncs) each(s.start);
}

void from_zero(Profile& p) {
  double first = std::numeric_limits<double>::infinity(), last = 0;
  each_time(p, [&](double& t) { first = std::min(first, t), last = std::max(last, t); });
  // Two roundings to a double, in a start and in an end that is the sum of two.
  p.resolution = 4 * (std::nextafter(last, 2 * last + 1) - last);
  each_time(p, [&](double& t) { t -= first; });
}

}  // namespace

Profile parse_profile(std::string_view text, const std::string& path) {
  refuse_binary(text, path);
  if (text.find_first_not_of(" \t\r\n") == text.npos) refuse(path, "is empty: give a profile");
  Profile p = one_record_a_line(text) ? parse_cupti(text, path) : parse_kineto(text, path);
  from_zero(p);
  return p;
}

Profile read_profile(const std::string& path) { return parse_profile(read_text(path), path); }

}  // namespace moecheck::harness::streams
