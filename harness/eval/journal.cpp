#include "harness/eval/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/text.h"

namespace moecheck::harness::eval {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kMark = "moecheck_journal";
constexpr int kVersion = 1;

[[noreturn]] void fail(const std::string& path, std::string_view why, std::string_view remedy) {
  throw UsageError(fmt::format("{}: {}; {}", printable(path), why, remedy));
}

std::string header_line(const RunSettings& settings) {
  Json j;
  j[kMark] = kVersion;
  for (const auto& [name, value] : settings) j["settings"][name] = value;
  return j.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

void require_same(const std::string& path, const Json& header, const RunSettings& settings) {
  const Json& there = header.at("settings");
  for (const auto& [name, value] : settings) {
    const std::string old = there.value(name, std::string("(not set)"));
    if (old == Json(value).get<std::string>()) continue;
    fail(path,
         fmt::format("it is of another run: its {} is '{}', this one's '{}'", name, printable(old, 160),
                     printable(value, 160)),
         "resume with the same settings, or give another --output");
  }
}

std::string read_all(int file, const std::string& path) {
  std::string all;
  char bytes[1 << 16];
  for (ssize_t got = 0; (got = ::read(file, bytes, sizeof bytes)) != 0;) {
    if (got < 0) fail(path, std::strerror(errno), "give an --output that can be read");
    all.append(bytes, static_cast<std::size_t>(got));
  }
  return all;
}

}  // namespace

Journal::Journal(const std::string& directory, const RunSettings& settings, bool resume)
    : path_(directory + "/journal.jsonl") {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail(directory, error.message(), "give an --output folder that can be made");
  file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) fail(path_, std::strerror(errno), "give an --output folder you may write to");
  try {
    if (flock(file_, LOCK_EX | LOCK_NB) != 0)
      fail(path_, "another moecheck is writing it", "wait for it, or give another --output");
    struct stat status {};
    if (fstat(file_, &status) == 0 && status.st_size > 0) {
      if (!resume)
        fail(path_, "there is a run already", "go on with it by --resume, or give another --output");
      read(settings);
    }
    if (fstat(file_, &status) == 0 && status.st_size == 0) write(header_line(settings));
    sync();
  } catch (...) {
    close(file_);
    throw;
  }
}

Journal::~Journal() { close(file_); }

void Journal::read(const RunSettings& settings) {
  const std::string all = read_all(file_, path_);
  const std::size_t whole = all.rfind('\n') == std::string::npos ? 0 : all.rfind('\n') + 1;
  std::map<std::int64_t, std::size_t> places;
  std::size_t good = 0, number = 0;
  for (std::size_t at = 0; at < whole; ++number) {
    const std::size_t end = all.find('\n', at);
    const std::string_view line = std::string_view(all).substr(at, end - at);
    const Json j = Json::parse(line, nullptr, false);
    if (number == 0) {
      if (!j.is_object() || j.value(kMark, 0) != kVersion || !j.contains("settings"))
        fail(path_, "it does not begin as a journal of this version", "give another --output");
      require_same(path_, j, settings);
    } else if (j.is_object() && j.contains("results")) {
      results_ = j.at("results").get<std::string>();
    } else if (j.is_object()) {
      Sample sample = sample_from_json(line);
      results_.clear();
      const auto [place, added] = places.emplace(sample.doc_id, found_.size());
      if (added)
        found_.push_back(std::move(sample));
      else
        found_[place->second] = std::move(sample);
    } else if (end + 1 == whole) {
      break;  // a last line of which the machine's end left rubbish
    } else {
      fail(path_, fmt::format("line {} is damaged", number + 1),
           "remove that line, and its question is asked again");
    }
    at = good = end + 1;
  }
  dropped_ = static_cast<std::int64_t>(all.size() - good);
  if (dropped_ > 0 && ftruncate(file_, static_cast<off_t>(good)) != 0)
    fail(path_, std::strerror(errno), "its torn last line could not be taken off");
}

void Journal::write(std::string line) {
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = ::write(file_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path_, std::strerror(errno), "make room and go on with --resume");
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  dirty_ = true;
}

void Journal::append(const Sample& sample) { write(to_json(sample) + "\n"); }

void Journal::append_results(const std::string& path) {
  results_ = path;
  write(Json{{"results", path}}.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  sync();
}

void Journal::sync() {
  if (!dirty_) return;
  if (fdatasync(file_) != 0 && errno != EINVAL && errno != EROFS)
    fail(path_, std::strerror(errno), "the disk does not take it; go on with --resume elsewhere");
  dirty_ = false;
}

}  // namespace moecheck::harness::eval
