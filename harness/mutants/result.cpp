// Results as lines of JSON.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/mutants/run.h"
#include "harness/text.h"

namespace moecheck::harness::mutants {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kSchema = "moecheck.mutant/1";
constexpr std::string_view kGates[] = {"ci", "sanitizer"};
constexpr std::string_view kOutcomes[] = {"killed", "survived", "equivalent", "not run"};

std::size_t index_of(std::span<const std::string_view> names, std::string_view name, const char* what) {
  const auto at = std::ranges::find(names, name);
  if (at == names.end()) {
    const std::vector<std::string> known(names.begin(), names.end());
    throw UsageError(fmt::format("{} '{}' is not known: did you mean {}? There are {}", what, printable(name),
                                 nearest(name, known), fmt::join(known, ", ")));
  }
  return static_cast<std::size_t>(at - names.begin());
}

void put(Json& j, const char* key, const std::string& text) {  // what is empty is left out
  if (!text.empty()) j[key] = text;
}

}  // namespace

std::string_view name(Gate gate) { return kGates[static_cast<std::size_t>(gate)]; }
std::string_view name(Outcome outcome) { return kOutcomes[static_cast<std::size_t>(outcome)]; }
Gate require_gate(const std::string& name) { return static_cast<Gate>(index_of(kGates, name, "gate")); }

std::string to_json(const Result& r) {
  const Mutant& m = r.mutant;
  Json j{{"schema", kSchema}, {"number", m.number}, {"name", m.name}, {"layer", m.layer}};
  put(j, "operator", m.op);
  put(j, "class", m.class_);
  put(j, "what", m.what);
  put(j, "upstream", m.upstream);
  j["gate"] = name(r.gate);
  put(j, "sanitizer", r.sanitizer);
  j["outcome"] = name(r.outcome);
  put(j, "killer", r.killer);
  put(j, "suite", r.suite);
  put(j, "repro", r.repro);
  put(j, "detail", r.detail);
  put(j, "equivalent", m.equivalent);
  j["seconds"] = r.seconds;
  if (r.asked > 0) j["asked"] = r.asked;
  if (!r.noticed.empty()) j["noticed"] = r.noticed;
  if (!r.silent.empty()) j["silent"] = r.silent;
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result result_from_json(std::string_view line) {
  try {
    const Json j = Json::parse(line);
    if (j.at("schema") != kSchema)
      throw UsageError(fmt::format("schema {} is not {}: give a file that `moecheck mutants --output` wrote",
                                   printable(j.at("schema").dump()), kSchema));
    const auto text = [&](const char* key) { return j.value(key, std::string()); };
    Result r;
    r.mutant.number = j.at("number");
    r.mutant.name = j.at("name");
    r.mutant.layer = j.at("layer");
    r.mutant.op = text("operator");
    r.mutant.class_ = text("class");
    r.mutant.what = text("what");
    r.mutant.upstream = text("upstream");
    r.mutant.equivalent = text("equivalent");
    r.gate = require_gate(j.at("gate"));
    r.sanitizer = text("sanitizer");
    r.outcome = static_cast<Outcome>(index_of(kOutcomes, j.at("outcome").get<std::string>(), "outcome"));
    r.killer = text("killer");
    r.suite = text("suite");
    r.repro = text("repro");
    r.detail = text("detail");
    r.seconds = j.at("seconds");
    r.asked = j.value("asked", std::int64_t{0});
    r.noticed = j.value("noticed", std::vector<std::string>());
    r.silent = j.value("silent", std::vector<std::string>());
    return r;
  } catch (const Json::exception& e) {
    throw UsageError(fmt::format("no result of a mutant: {}", e.what()));
  }
}

std::vector<Result> read_results(const std::string& path) {
  std::ifstream in(path);
  if (!in)
    throw UsageError(fmt::format("{}: cannot be read: give a file that `moecheck mutants --output` wrote",
                                 printable(path)));
  std::vector<Result> results;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.empty()) continue;
    try {
      results.push_back(result_from_json(line));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}:{}: {}", printable(path), number, e.what()));
    }
  }
  return results;
}

}  // namespace moecheck::harness::mutants
