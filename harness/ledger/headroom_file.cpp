// The ledger of headroom as a file.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "harness/atomic_file.h"
#include "harness/case.h"
#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/ledger/headroom.h"
#include "harness/text.h"

namespace moecheck::harness::ledger {
namespace {
using json = nlohmann::ordered_json;

constexpr std::string_view kSchema = "moecheck.headroom/1";

// Writers of ledgers in the same folder wait for each other. The folder is
// locked, not the file: that is replaced.
class FolderLock {
 public:
  explicit FolderLock(const std::string& path) {
    const std::string folder = std::filesystem::absolute(path).parent_path().string();
    file_ = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file_ < 0)
      throw UsageError(
          fmt::format("{}: its folder cannot be opened: {}: give "
                      "a path in a folder that exists",
                      printable(path), std::strerror(errno)));
    (void)flock(file_, LOCK_EX);  // a file system without locks has one writer
  }
  ~FolderLock() { close(file_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int file_ = -1;
};

double figure(const json& j, const char* key) {
  const double v = j.at(key).get<double>();
  if (!std::isfinite(v) || v < 0) throw UsageError(fmt::format("\"{}\" is {}: it is at least 0", key, v));
  return v;
}

}  // namespace

std::string to_json(const Headroom& h) {
  const json j = {{"schema", kSchema},
                  {"commit", h.commit},
                  {"implementation", h.key.implementation},
                  {"operator", h.key.operator_name},
                  {"tier", h.key.tier},
                  {"dtype", h.key.dtype},
                  {"device", h.key.device},
                  {"cases", h.cases},
                  {"failed", h.failed},
                  {"case_set", h.case_set},
                  {"max", h.max},
                  {"q99", h.q99},
                  {"row_error", h.row_error},
                  {"worst", h.worst},
                  {"compiler", h.compiler},
                  {"cpu", h.cpu}};
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

Headroom headroom_from_json(std::string_view line) {
  try {
    const json j = json::parse(line);
    const std::string schema = j.is_object() ? j.value("schema", "") : "";
    if (schema != kSchema)
      throw UsageError(
          fmt::format("schema is \"{}\"; this moecheck reads {}", printable(schema, 80), kSchema));
    Headroom h;
    h.commit = j.at("commit").get<std::string>();
    h.key = {j.at("implementation").get<std::string>(), j.at("operator").get<std::string>(),
             j.at("tier").get<std::string>(), j.at("dtype").get<std::string>(),
             j.at("device").get<std::string>()};
    h.cases = j.at("cases").get<std::int64_t>();
    h.failed = j.at("failed").get<std::int64_t>();
    h.case_set = j.at("case_set").get<std::string>();
    h.max = figure(j, "max");
    h.q99 = figure(j, "q99");
    h.row_error = figure(j, "row_error");
    h.worst = j.at("worst").get<std::string>();
    h.compiler = j.at("compiler").get<std::string>();
    h.cpu = j.at("cpu").get<std::string>();
    return h;
  } catch (const json::exception& e) {
    throw UsageError(json_error(e) +
                     ": the line is damaged or cut off: remove "
                     "it, or append that commit again");
  }
}

std::vector<Headroom> read_ledger(const std::string& path) {
  std::ifstream in(path);
  if (!in)
    throw UsageError(
        fmt::format("{}: cannot be opened: `moecheck headroom --append` begins one", printable(path)));
  std::vector<Headroom> lines;
  std::size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      lines.push_back(headroom_from_json(line));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}:{}: {}", printable(path), number, e.what()));
    }
  }
  if (in.bad() || !in.eof())
    throw UsageError(
        fmt::format("{}: reading stopped after line {}: is it a directory?", printable(path), number));
  return lines;
}

void append_ledger(const std::string& path, std::span<const Headroom> lines) {
  for (const Headroom& h : lines)
    if (h.commit.empty() || h.commit == "unknown")
      throw UsageError(
          "the records name no commit: a ledger is kept per "
          "commit, so build moecheck from a git checkout");
  const FolderLock lock(path);
  std::vector<Headroom> all;
  if (access(path.c_str(), F_OK) == 0) all = read_ledger(path);
  for (const Headroom& h : lines) {
    bool replaced = false;
    for (Headroom& old : all) {
      if (old.commit != h.commit || old.key != h.key) continue;
      old = h;
      replaced = true;
    }
    if (!replaced) all.push_back(h);
  }
  std::string text;
  for (const Headroom& h : all) text += to_json(h) + "\n";
  write_file(path, text);
}

}  // namespace moecheck::harness::ledger
