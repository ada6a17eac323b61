// CUPTI's activity records, one JSON object a line.
#include <fmt/format.h>

#include <optional>
#include <unordered_map>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/streams/profile.h"
#include "harness/tasks/files.h"
#include "harness/text.h"

namespace moecheck::harness::streams {
namespace {

using Json = nlohmann::json;

// "cudaLaunchKernel_v7000" -> "cudaLaunchKernel"
std::string without_version(std::string name) {
  const std::size_t at = name.rfind("_v");
  if (at != name.npos && at + 2 < name.size() && name.find_first_not_of("0123456789", at + 2) == name.npos)
    name.resize(at);
  return name;
}

class Records {
 public:
  explicit Records(Profile& profile) : p_(profile) {}

  void add(const Json& j) {
    j_ = &j;
    if (!j.is_object()) throw UsageError("is no object: a record is written {\"kind\": ...}");
    const std::string kind = text("kind");
    if (kind == "KERNEL") return activity(ActivityKind::kKernel, "kernel");
    if (kind == "MEMCPY") return activity(ActivityKind::kCopy, "Memcpy");
    if (kind == "MEMSET") return activity(ActivityKind::kMemset, "Memset");
    if (kind == "GRAPH_TRACE") return activity(ActivityKind::kGraph, "graph");
    if (kind == "RUNTIME" || kind == "DRIVER") return call();
    if (kind == "SYNCHRONIZATION") return sync();
    if (kind == "CUDA_EVENT") return event();
  }

 private:
  // Nsight's ids: the process is in 24 bits above those of the thread.
  void one_process() {
    for (const char* key : {"globalPid", "globalTid", "processId", "pid"}) {
      if (!has(key)) continue;
      const std::int64_t said = id(key);
      const std::int64_t process = key[0] == 'g' ? (said >> 24) & 0xFFFFFF : said;
      if (!process_) process_ = process;
      if (*process_ != process)
        throw UsageError(fmt::format(
            "{} {} is of process {}, and records above are of process {}: ids of calls, streams and events "
            "count anew in each process. Give the records of one alone "
            "(reports/stream_program.md has the condition for Nsight Systems)",
            key, said, process, *process_));
    }
  }

  bool has(const char* key) const { return j_->contains(key) && !(*j_)[key].is_null(); }

  std::string text(const char* key) const {
    if (!has(key) || !(*j_)[key].is_string())
      throw UsageError(fmt::format("{} is missing or no text: write it in quotes", key));
    return (*j_)[key].get<std::string>();
  }
  std::int64_t id(const char* key, std::optional<std::int64_t> otherwise = std::nullopt) const {
    if (!has(key) && otherwise) return *otherwise;
    if (!has(key))
      throw UsageError(fmt::format("{} of a {} is missing: give the record's field", key, text("kind")));
    const Json& v = (*j_)[key];
    if (!v.is_number_integer() || (v.is_number_unsigned() && v.get<std::uint64_t>() > INT64_MAX))
      throw UsageError(fmt::format("{} is no whole number below 2^63", key));
    const auto n = v.get<std::int64_t>();
    return n == 0xFFFFFFFF ? -1 : n;
  }
  double time(const char* key) const { return static_cast<double>(id(key)) / 1000; }
  double end() const {
    if (id("end") < id("start"))
      throw UsageError(fmt::format("end {} lies before start {}", id("end"), id("start")));
    return time("end");
  }

  void activity(ActivityKind kind, const char* otherwise) {
    one_process();
    Activity a{kind,
               has("name") ? text("name") : otherwise,
               id("deviceId"),
               id("streamId"),
               time("start"),
               end(),
               id("correlationId", 0)};
    a.of_graph = has("graphNodeId") && (*j_)["graphNodeId"] != 0;
    p_.activities.push_back(std::move(a));
  }

  void call() {
    one_process();
    const auto [thread, fresh] = threads_.emplace(id("globalTid", 0), p_.threads);
    p_.threads += fresh;
    p_.calls.push_back(
        {without_version(text("name")), id("correlationId"), thread->second, time("start"), end()});
  }

  void event() {
    one_process();
    p_.events.push_back(
        {id("eventId"), id("eventSyncId", -1), id("deviceId"), id("streamId"), id("correlationId")});
  }

  void sync() {
    one_process();
    SyncRecord s;
    switch (id("syncType")) {
      case 1:
        s.kind = SyncKind::kHostEvent;
        break;
      case 2:
        s.kind = SyncKind::kWaitEvent;
        break;
      case 3:
        s.kind = SyncKind::kHostStream;
        break;
      case 4:
        s.kind = SyncKind::kHostDevice;
        break;
      default:
        return;
    }
    s.device = id("deviceId");
    s.stream = s.kind == SyncKind::kWaitEvent || s.kind == SyncKind::kHostStream ? id("streamId") : -1;
    s.correlation = id("correlationId", 0);
    s.event = id("eventId", -1);
    s.sync_id = id("eventSyncId", -1);
    s.start = time("start");
    p_.syncs.push_back(s);
  }

  Profile& p_;
  const Json* j_ = nullptr;
  std::optional<std::int64_t> process_;
  std::unordered_map<std::int64_t, int> threads_;
};

}  // namespace

Profile parse_cupti(std::string_view text, const std::string& path) {
  Profile p;
  p.source = "CUPTI records";
  Records records(p);
  each_line(
      path, text, [&](std::string_view line, std::size_t) { records.add(Json::parse(line)); },
      "every line is one CUPTI record (reports/stream_program.md)");
  return p;
}

}  // namespace moecheck::harness::streams
