#include "harness/record.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#include "harness/case.h"
#include "harness/fault.h"
#include "harness/json.h"
#include "harness/text.h"
#include "harness/workers.h"
#include "moecheck_version.h"
#include "optimized/gpu/runtime.h"

namespace moecheck::harness {
namespace {
using json = nlohmann::ordered_json;  // keys in the order of reports/README.md

constexpr std::string_view kSchema = "moecheck.record/1";

std::string trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\"");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t\"\r") - first + 1));
}

// The value behind the first line "key<separator>value" of a system file; empty when there is none.
std::string value_in_file(const char* path, std::string_view key, char separator) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const auto at = line.find(separator);
    if (at != std::string::npos && trim(std::string_view(line).substr(0, at)) == key)
      return trim(std::string_view(line).substr(at + 1));
  }
  return {};
}

// The GPU of this machine; empty without one. Asked in a child: a process that has used a driver cannot fork workers that do.
std::string device_name() {
  using Get = gpu::Runtime& (*)();
  const Get runtime = access("/dev/nvidiactl", F_OK) == 0 ? Get(gpu::cuda_runtime)
                      : access("/dev/kfd", F_OK) == 0     ? Get(gpu::hip_runtime)
                                                          : nullptr;
  std::string name;
  if (runtime == nullptr) return name;
  constexpr double kSeconds = 30;
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t) { return runtime().device(); };
  callbacks.done = [&](std::size_t, std::string text) { name = std::move(text); };
  callbacks.lost = [](std::size_t, std::string, bool) {};  // a driver without a device, or none
  run_in_workers(1, {1, kSeconds}, callbacks);
  return name;
}

Environment read_environment() {
  Environment e{MOECHECK_VERSION, MOECHECK_COMMIT, MOECHECK_COMPILER, MOECHECK_BUILD, {}, {}, {}, 0};
  e.cpu = value_in_file("/proc/cpuinfo", "model name", ':');
  if (e.cpu.empty()) e.cpu = value_in_file("/proc/cpuinfo", "Model", ':');  // Arm boards
  e.os = value_in_file("/etc/os-release", "PRETTY_NAME", '=');
  e.device = device_name();
  e.threads = static_cast<int>(std::thread::hardware_concurrency());
  return e;
}

// --- writing

json number(double v) {  // JSON has no Inf and no NaN
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return HARNESS_FAULT(kRecordInfinityIsZero) ? json(0) : json(v > 0 ? "inf" : "-inf");
  return v;
}

void put(json& j, const char* key, const std::string& text) {  // what is empty is left out
  if (!text.empty()) j[key] = text;
}

json to_json(const Element& e) {
  json j = {{"output", e.output},       {"index", e.index},         {"expected", number(e.expected)},
            {"low", number(e.low)},     {"high", number(e.high)},   {"got", number(e.got)},
            {"error", number(e.error)}, {"bound", number(e.bound)}, {"ratio", number(e.ratio)}};
  put(j, "note", e.note);
  return j;
}

json to_json(const Metrics& m) {
  return {{"max_relative_row", number(m.max_relative_row)},
          {"cosine", number(m.cosine)},
          {"nmse", number(m.nmse)},
          {"calc_diff", number(m.calc_diff)},
          {"bias", number(m.bias)}};
}

json to_json(const Environment& e) {
  json j = json::object();
  put(j, "version", e.version);
  put(j, "commit", e.commit);
  put(j, "compiler", e.compiler);
  put(j, "build", e.build);
  put(j, "cpu", e.cpu);
  put(j, "os", e.os);
  put(j, "device", e.device);
  j["threads"] = e.threads;
  return j;
}

void put_judgement(json& j, const Judgement& r) {
  j["verdict"] = std::string(name(r.verdict));
  put(j, "reason", r.reason);
  put(j, "cause", r.cause);
  j["elements"] = r.elements;
  j["failed"] = r.failed;
  j["suspect"] = r.suspect;
  j["undecided"] = r.undecided;
  j["headroom"] = number(r.headroom);
  if (r.worst) j["worst"] = to_json(*r.worst);
  j["metrics"] = to_json(r.metrics);
  if (r.clauses.empty()) return;
  json& clauses = j["clauses"] = json::array();
  for (const ClauseResult& c : r.clauses) {
    clauses.push_back({{"name", c.name}, {"verdict", std::string(name(c.verdict))}});
    put(clauses.back(), "detail", c.detail);
  }
}

// --- reading: every get() leaves its target alone where the key is absent, and names the key where the type
// is wrong

[[noreturn]] void wrong(std::string_view key, const json& found, std::string_view needed) {
  const std::string text = found.is_structured() ? std::string("an ") + found.type_name()
                                                 : found.dump(-1, ' ', false, json::error_handler_t::replace);
  throw UsageError(fmt::format("\"{}\" is {}; it must be {}", key, printable(text, 80), needed));
}

const json* find(const json& j, const char* key) {
  const auto it = j.find(key);
  return it == j.end() ? nullptr : &*it;
}

void get(const json& j, const char* key, std::string& v) {
  const json* found = find(j, key);
  if (found == nullptr) return;
  if (!found->is_string()) wrong(key, *found, "a string");
  v = found->get<std::string>();
}

void get(const json& j, const char* key, double& v) {
  const json* found = find(j, key);
  if (found == nullptr) return;
  constexpr double kInf = std::numeric_limits<double>::infinity();
  if (found->is_number())
    v = found->get<double>();
  else if (*found == "inf")
    v = kInf;
  else if (*found == "-inf")
    v = -kInf;
  else if (*found == "nan")
    v = std::numeric_limits<double>::quiet_NaN();
  else
    wrong(key, *found, "a number, \"inf\", \"-inf\" or \"nan\"");
}

std::int64_t integer(const char* key, const json& found,
                     std::int64_t max = std::numeric_limits<std::int64_t>::max()) {
  const bool fits = found.is_number_unsigned()
                        ? found.get<std::uint64_t>() <= static_cast<std::uint64_t>(max)
                        : found.is_number_integer() && found.get<std::int64_t>() >= -max;
  if (!fits) wrong(key, found, fmt::format("a whole number of at most {}", max));
  return found.get<std::int64_t>();
}

void get(const json& j, const char* key, std::int64_t& v) {
  if (const json* found = find(j, key)) v = integer(key, *found);
}

void get(const json& j, const char* key, int& v) {
  if (const json* found = find(j, key))
    v = static_cast<int>(integer(key, *found, std::numeric_limits<int>::max()));
}

void get(const json& j, const char* key, Verdict& v) {
  const json* found = find(j, key);
  if (found == nullptr) return;
  if (!found->is_string() || !parse_verdict(found->get<std::string>(), v))
    wrong(key, *found,
          "a verdict (PASS, FAIL, SUSPECT, UNDECIDED, MISTRUSTED, ORACLE, SKIP, CRASH, TIMEOUT or WAIVED)");
}

const json* find_object(const json& j, const char* key) {
  const json* found = find(j, key);
  if (found != nullptr && !found->is_object()) wrong(key, *found, "an object");
  return found;
}

const json* find_array(const json& j, const char* key) {
  const json* found = find(j, key);
  if (found != nullptr && !found->is_array()) wrong(key, *found, "an array");
  return found;
}

void get(const json& j, const char* key, std::map<std::string, std::uint64_t>& counts) {
  if (const json* object = find_object(j, key))
    for (const auto& [name, count] : object->items())
      counts[name] = static_cast<std::uint64_t>(std::max<std::int64_t>(0, integer(key, count)));
}

Element element_from(const json& j) {
  Element e;
  get(j, "output", e.output);
  if (const json* index = find_array(j, "index"))
    for (const json& i : *index) e.index.push_back(integer("index", i));
  get(j, "expected", e.expected);
  get(j, "low", e.low);
  get(j, "high", e.high);
  get(j, "got", e.got);
  get(j, "error", e.error);
  get(j, "bound", e.bound);
  get(j, "ratio", e.ratio);
  get(j, "note", e.note);
  return e;
}

Environment environment_from(const json& j) {
  Environment e;
  get(j, "version", e.version);
  get(j, "commit", e.commit);
  get(j, "compiler", e.compiler);
  get(j, "build", e.build);
  get(j, "cpu", e.cpu);
  get(j, "os", e.os);
  get(j, "device", e.device);
  get(j, "threads", e.threads);
  return e;
}

Judgement judgement_from(const json& j) {
  Judgement r;
  get(j, "verdict", r.verdict);
  get(j, "reason", r.reason);
  get(j, "cause", r.cause);
  get(j, "elements", r.elements);
  get(j, "failed", r.failed);
  get(j, "suspect", r.suspect);
  get(j, "undecided", r.undecided);
  get(j, "headroom", r.headroom);
  if (const json* worst = find_object(j, "worst")) r.worst = element_from(*worst);
  if (const json* m = find_object(j, "metrics")) {
    get(*m, "max_relative_row", r.metrics.max_relative_row);
    get(*m, "cosine", r.metrics.cosine);
    get(*m, "nmse", r.metrics.nmse);
    get(*m, "calc_diff", r.metrics.calc_diff);
    get(*m, "bias", r.metrics.bias);
  }
  if (const json* clauses = HARNESS_FAULT(kRecordClausesLost) ? nullptr : find_array(j, "clauses"))
    for (const json& c : *clauses) {
      if (!c.is_object()) wrong("clauses", c, "an array of objects");
      ClauseResult& result = r.clauses.emplace_back();
      get(c, "name", result.name);
      get(c, "verdict", result.verdict);
      get(c, "detail", result.detail);
    }
  return r;
}

void get(const json& j, const char* key, std::optional<WaivedFailure>& waived) {
  const json* object = find_object(j, key);
  if (object == nullptr) return;
  waived.emplace();
  get(*object, "verdict", waived->verdict);
  get(*object, "reason", waived->reason);
  if (const json* issues = find_array(*object, "issues"))
    for (const json& issue : *issues) {
      if (!issue.is_string()) wrong("issues", issue, "a list of strings");
      waived->issues.push_back(issue.get<std::string>());
    }
}

void require_schema(const json& j) {
  if (!j.is_object()) throw UsageError("the line is not a JSON object: each line of a records file is one");
  std::string schema;
  get(j, "schema", schema);
  if (schema != kSchema)
    throw UsageError(
        fmt::format("schema is \"{}\"; this moecheck reads {}: use the version that wrote the file",
                    printable(schema, 80), kSchema));
  for (const char* key : {"case", "operator", "implementation", "verdict"})
    if (!j.contains(key))
      throw UsageError(fmt::format("the key \"{}\" is missing: the line is damaged, write it again", key));
}

}  // namespace

const Environment& environment() {
  static const Environment e = read_environment();
  return e;
}

std::string to_json(const Record& r) {
  json j = {{"schema", kSchema},
            {"case", r.case_line},
            {"operator", r.operator_name},
            {"implementation", r.implementation}};
  put(j, "model", r.model);
  put(j, "policy", r.policy);
  put(j, "tier", r.tier);
  put(j, "suite", r.suite);
  put(j, "argument", r.argument);
  put_judgement(j, r.result);
  if (r.waived)
    j["waived"] = {{"verdict", std::string(name(r.waived->verdict))},
                   {"reason", r.waived->reason},
                   {"issues", r.waived->issues}};
  j["seconds"] = number(r.seconds);
  j["run_seconds"] = number(r.run_seconds);
  if (!r.kernels.executed.empty()) j["kernels"] = r.kernels.executed;
  if (!r.kernels.fallbacks.empty()) j["fallbacks"] = r.kernels.fallbacks;
  put(j, "shrunk", r.shrunk);
  j["env"] = to_json(r.env);
  return j.dump(-1, ' ', false, json::error_handler_t::replace);  // a crash message may hold any bytes
}

Record record_from_json(std::string_view line) {
  json j;
  try {
    j = json::parse(line);
  } catch (const json::exception& e) {
    throw UsageError(fmt::format("not JSON ({}): the line is damaged or cut off; remove it or write it again",
                                 printable(e.what(), 200)));
  }
  require_schema(j);
  Record r;
  get(j, "case", r.case_line);
  get(j, "operator", r.operator_name);
  get(j, "implementation", r.implementation);
  get(j, "model", r.model);
  get(j, "policy", r.policy);
  get(j, "tier", r.tier);
  get(j, "suite", r.suite);
  get(j, "argument", r.argument);
  r.result = judgement_from(j);
  get(j, "waived", r.waived);
  get(j, "seconds", r.seconds);
  get(j, "run_seconds", r.run_seconds);
  get(j, "kernels", r.kernels.executed);
  get(j, "fallbacks", r.kernels.fallbacks);
  get(j, "shrunk", r.shrunk);
  if (const json* env = find_object(j, "env")) r.env = environment_from(*env);
  return r;
}

std::vector<Record> read_records(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw UsageError(fmt::format("{}: cannot be opened: check the path and its permissions", path));
  std::vector<Record> records;
  std::size_t number_of_line = 0;
  for (std::string line; std::getline(in, line);) {
    ++number_of_line;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      records.push_back(record_from_json(line));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}:{}: {}", path, number_of_line, e.what()));
    }
  }
  if (in.bad() || !in.eof())
    throw UsageError(
        fmt::format("{}: reading stopped after line {}: is it a directory?", path, number_of_line));
  return records;
}

}  // namespace moecheck::harness
