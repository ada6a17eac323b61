#include "harness/streams/program_json.h"

#include <fmt/format.h>

#include <optional>
#include <unordered_map>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/tasks/files.h"
#include "harness/text.h"
#include "reference/index.h"

namespace moecheck::harness::streams {
namespace {

using Json = nlohmann::ordered_json;
using reference::at;
using reference::ByteRange;
using reference::StepKind;
using reference::StreamKind;
using reference::StreamProgram;
using reference::StreamStep;

constexpr std::int64_t kMaxBytes = std::int64_t{1} << 53;  // what every reader of JSON keeps exactly
constexpr double kMaxClocks = 3e8;                         // nodes times chains: 1.2 GB

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  StreamProgram read(const Json& j) {
    place_ = "the program";
    keys(j, {"schema", "name", "streams", "buffers", "scratch", "steps", "overlaps"});
    const std::string schema = text(j, "schema");
    if (schema != kProgramSchema)
      fail("schema", fmt::format("is '{}': this version reads {}", printable(schema, 60), kProgramSchema));
    if (j.contains("name")) p_.name = text(j, "name");
    each(j, "streams", [&](const Json& s) { stream(s); });
    each(j, "buffers", [&](const Json& b) { buffer(b); });
    each(j, "scratch", [&](const Json& s) { scratch(s); });
    operations(j);
    each(j, "steps", [&](const Json& s) { step(s); });
    each(j, "overlaps", [&](const Json& o) { overlap(o); });
    check_size();
    if (const auto why = reference::refusal(p_))
      throw UsageError(fmt::format("{}: {}", printable(path_), printable(*why, 2000)));
    return std::move(p_);
  }

 private:
  using Names = std::unordered_map<std::string, int>;

  [[noreturn]] void fail(std::string_view key, const std::string& what) const {
    const std::string place = place_ == "the program" ? "" : place_ + ".";
    throw UsageError(fmt::format("{}: {}{} {}", printable(path_), place, key, what));
  }

  void keys(const Json& j, std::initializer_list<const char*> known) const {
    if (!j.is_object())
      throw UsageError(
          fmt::format("{}: {} is no object: write {{\"...\": ...}}, keys in reports/stream_program.md",
                      printable(path_), place_));
    for (const auto& [key, value] : j.items()) {
      bool found = key.starts_with("x-");
      for (const char* k : known) found = found || key == k;
      if (found) continue;
      const std::vector<std::string> names(known.begin(), known.end());
      throw UsageError(
          fmt::format("{}: {} has an unknown key '{}': did you mean '{}'? Keys of your own begin with x-",
                      printable(path_), place_, printable(key, 60), nearest(key, names)));
    }
  }

  std::string text(const Json& j, const char* key) const {
    if (!j.contains(key)) fail(key, "is missing: give a text");
    if (!j[key].is_string() || j[key].get_ref<const std::string&>().empty())
      fail(key, "is no text: give a name in quotes");
    return j[key].get<std::string>();
  }

  std::int64_t integer(const Json& j, const char* key,
                       std::optional<std::int64_t> otherwise = std::nullopt) const {
    if (!j.contains(key) && otherwise) return *otherwise;
    if (!j.contains(key)) fail(key, "is missing: give a whole number");
    if (!j[key].is_number_integer()) fail(key, "is no whole number");
    if (j[key].is_number_unsigned() && j[key].get<std::uint64_t>() > static_cast<std::uint64_t>(kMaxBytes))
      fail(key, fmt::format("is {}: at most 2^53", j[key].get<std::uint64_t>()));
    const auto n = j[key].get<std::int64_t>();
    if (n < 0) fail(key, fmt::format("is {}: at least 0", n));
    return n;
  }

  template <class Each>
  void each(const Json& j, const char* key, Each each_of) {
    if (!j.contains(key)) return;
    if (!j[key].is_array()) fail(key, "is no list: write [...]");
    for (std::size_t i = 0; i < j[key].size(); ++i) {
      place_ = fmt::format("{}[{}]", key, i);
      each_of(j[key][i]);
    }
    place_ = "the program";
  }

  int find(const Names& names, const std::string& name, const char* key, const char* what) const {
    if (const auto found = names.find(name); found != names.end()) return found->second;
    std::vector<std::string> known;
    for (const auto& [n, i] : names) known.push_back(n);
    fail(key, known.empty() ? fmt::format("names {} '{}': none is declared", what, printable(name, 60))
                            : fmt::format("names {} '{}', which is not declared: did you mean '{}'?", what,
                                          printable(name, 60), printable(nearest(name, known), 60)));
  }
  int named(const Json& j, const char* key, const Names& names, const char* what) const {
    return find(names, text(j, key), key, what);
  }

  void declare(Names& names, const std::string& name, int number, const char* what) const {
    if (!names.emplace(name, number).second)
      fail("name",
           fmt::format("is '{}', the name of another {}: each needs its own", printable(name, 60), what));
  }

  void stream(const Json& j) {
    if (j.is_string()) {
      declare(streams_, j.get<std::string>(), p_.stream(j.get<std::string>()), "stream");
      return;
    }
    keys(j, {"name", "kind"});
    StreamKind kind = StreamKind::kNonBlocking;
    if (j.contains("kind")) {
      const std::string given = text(j, "kind");
      bool known = false;
      for (const StreamKind k : {StreamKind::kNonBlocking, StreamKind::kBlocking, StreamKind::kLegacy})
        if (given == reference::name(k)) kind = k, known = true;
      if (!known)
        fail("kind", fmt::format("is '{}': non_blocking, blocking or legacy", printable(given, 60)));
    }
    const std::string name = text(j, "name");
    declare(streams_, name, p_.stream(name, kind), "stream");
  }

  void buffer(const Json& j) {
    keys(j, {"name", "bytes", "pool", "view_of", "offset"});
    const std::string name = text(j, "name");
    const std::int64_t bytes = integer(j, "bytes");
    if (!j.contains("view_of") && j.contains("offset"))
      fail("offset", "is for views: give view_of too, or drop it");
    const int pool = j.contains("pool") ? named(j, "pool", streams_, "stream") : -1;
    const int number = j.contains("view_of") ? p_.view(name, named(j, "view_of", buffers_, "buffer"),
                                                       integer(j, "offset", 0), bytes)
                                             : p_.buffer(name, bytes, pool);
    if (j.contains("view_of") && pool >= 0) fail("pool", "is for memory of its own, not for a view: drop it");
    declare(buffers_, name, number, "buffer");
  }

  void scratch(const Json& j) {
    keys(j, {"name", "bytes", "per"});
    const std::string name = text(j, "name"), per = text(j, "per");
    if (per != "device" && per != "stream")
      fail("per", fmt::format("is '{}': device or stream", printable(per, 60)));
    declare(scratch_, name, p_.add_scratch(name, per == "stream", integer(j, "bytes", 1)), "scratch");
  }

  // Names first: an edge may lead to an operation that is listed later.
  void operations(const Json& j) {
    if (!j.contains("steps")) fail("steps", "is missing: give the list of what is done");
    int number = 0;
    if (j["steps"].is_array())
      for (const Json& s : j["steps"]) {
        if (s.is_object() && s.contains("name") && s["name"].is_string() && s.contains("op") &&
            (s["op"] == "kernel" || s["op"] == "copy"))
          operations_.emplace(s["name"].get<std::string>(), number);
        ++number;
      }
  }

  ByteRange range(const Json& j, const char* key) {
    if (j.is_string()) return p_.all(find(buffers_, j.get<std::string>(), key, "buffer"));
    const std::string place = place_;
    place_ += std::string(".") + key;
    keys(j, {"buffer", "begin", "end"});
    const int b = named(j, "buffer", buffers_, "buffer");
    const ByteRange r{b, integer(j, "begin", 0), integer(j, "end", at(p_.buffers, b).bytes)};
    place_ = place;
    return r;
  }

  template <class Each>
  void list(const Json& j, const char* key, Each each_of) {
    if (!j.contains(key)) return;
    if (!j[key].is_array()) fail(key, "is no list: write [...]");
    for (const Json& item : j[key]) each_of(item);
  }
  std::string word(const Json& j, const char* key) const {
    if (!j.is_string()) fail(key, "has an entry that is no name: give names in quotes");
    return j.get<std::string>();
  }

  int seen(Names& names, std::vector<std::string>& all, const std::string& name) {
    const auto [it, fresh] = names.emplace(name, static_cast<int>(all.size()));
    if (fresh) all.push_back(name);
    return it->second;
  }

  StepKind kind(const Json& j) const {
    if (!j.is_object()) keys(j, {});
    const std::string op = text(j, "op");
    std::vector<std::string> known;
    for (int k = 0; k < reference::kStepKinds; ++k) {
      known.emplace_back(reference::name(static_cast<StepKind>(k)));
      if (known.back() == op) return static_cast<StepKind>(k);
    }
    fail("op", fmt::format("is '{}': did you mean '{}'? There are {}", printable(op, 60), nearest(op, known),
                           fmt::join(known, ", ")));
  }

  void step(const Json& j) {
    StreamStep s;
    s.kind = kind(j);
    if (j.contains("name")) s.name = text(j, "name");
    if (j.contains("stream")) s.stream = named(j, "stream", streams_, "stream");
    switch (s.kind) {
      case StepKind::kKernel:
      case StepKind::kCopy:
        keys(j, {"op", "name", "stream", "reads", "writes", "scratch", "after", "duration"});
        operation(j, s);
        break;
      case StepKind::kRecord:
      case StepKind::kWait:
        keys(j, {"op", "name", "stream", "event"});
        s.event = event(j, s.kind == StepKind::kRecord);
        break;
      case StepKind::kWaitStream:
        keys(j, {"op", "name", "stream", "on"});
        s.on = named(j, "on", streams_, "stream");
        break;
      case StepKind::kHostSync:
        keys(j, {"op", "name", "stream", "event"});
        if (j.contains("event")) s.event = event(j, false);
        break;
      case StepKind::kAlloc:
        keys(j, {"op", "name", "buffer", "reuses"});
        if (j.contains("reuses")) s.reuses = named(j, "reuses", buffers_, "buffer");
        break;
      case StepKind::kFree:
        keys(j, {"op", "name", "buffer"});
        break;
      case StepKind::kRecordStream:
        keys(j, {"op", "name", "buffer", "stream"});
        break;
      case StepKind::kBeginCapture:
        keys(j, {"op", "name", "stream", "graph"});
        s.graph = seen(graphs_, p_.graphs, text(j, "graph"));
        break;
      case StepKind::kEndCapture:
        keys(j, {"op", "name", "stream"});
        break;
      case StepKind::kLaunchGraph:
        keys(j, {"op", "name", "stream", "graph"});
        s.graph = named(j, "graph", graphs_, "graph");
        break;
    }
    if (s.kind == StepKind::kAlloc || s.kind == StepKind::kFree || s.kind == StepKind::kRecordStream)
      s.buffer = named(j, "buffer", buffers_, "buffer");
    p_.steps.push_back(std::move(s));
  }

  int event(const Json& j, bool records) {
    if (records) return seen(events_, p_.events, text(j, "event"));
    const std::string name = text(j, "event");
    if (!events_.contains(name))
      fail("event",
           fmt::format(
               "waits for event '{}', which no earlier step records: record it first (a device would not "
               "wait at all)",
               printable(name, 60)));
    return events_.at(name);
  }

  void operation(const Json& j, StreamStep& s) {
    list(j, "reads", [&](const Json& r) { s.reads.push_back(range(r, "reads")); });
    list(j, "writes", [&](const Json& r) { s.writes.push_back(range(r, "writes")); });
    list(j, "scratch", [&](const Json& n) {
      s.scratch.push_back(find(scratch_, word(n, "scratch"), "scratch", "scratch"));
    });
    list(j, "after", [&](const Json& n) {
      s.after.push_back(find(operations_, word(n, "after"), "after", "operation"));
    });
    if (!j.contains("duration")) return;
    if (!j["duration"].is_number()) fail("duration", "is no number");
    s.duration = j["duration"].get<double>();
  }

  void overlap(const Json& j) {
    if (!j.is_array() || j.size() != 2) fail("", "is no pair: write [\"A\", \"B\"]");
    p_.overlaps.emplace_back(find(operations_, word(j[0], ""), "", "operation"),
                             find(operations_, word(j[1], ""), "", "operation"));
  }

  void check_size() const {
    double launches = 0, captured = 0;
    for (const StreamStep& s : p_.steps) {
      launches += s.kind == StepKind::kLaunchGraph;
      captured += s.kind == StepKind::kBeginCapture;
    }
    const auto steps = static_cast<double>(p_.steps.size()), lanes = static_cast<double>(p_.streams.size());
    const double graphs = launches + captured;
    if ((2 * steps + graphs * steps) * lanes * (1 + graphs) > kMaxClocks)
      throw UsageError(
          fmt::format("{}: {} steps on {} streams with {} launches of graphs are too many to check at once: "
                      "check a part of it",
                      printable(path_), p_.steps.size(), p_.streams.size(), launches));
  }

  const std::string path_;
  std::string place_;
  StreamProgram p_;
  Names streams_, buffers_, scratch_, events_, graphs_, operations_;
};

}  // namespace

StreamProgram parse_program(std::string_view text, const std::string& path) {
  Json j;
  try {
    j = Json::parse(text);
  } catch (const Json::exception& e) {
    throw UsageError(json_error_at(path, 1, e) +
                     ": a stream program is one JSON object (reports/stream_program.md)");
  }
  return Reader(path).read(j);
}

StreamProgram read_program(const std::string& path) { return parse_program(read_text(path), path); }

}  // namespace moecheck::harness::streams
