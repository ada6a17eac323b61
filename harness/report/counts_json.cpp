#include "harness/report/counts_json.h"

#include "harness/json.h"
#include "harness/report/aggregate.h"

namespace moecheck::harness {
namespace {
using json = nlohmann::ordered_json;

json to_json(const report::Group& g) {
  json verdicts = json::object(), failed = json::array();
  for (const Verdict v : report::kReadingOrder)
    if (g.tally[v] > 0) verdicts[std::string(name(v))] = g.tally[v];
  for (const Record* r : g.records)
    if (is_failure(r->result.verdict)) failed.push_back(r->case_line);
  json j = {{"operator", g.operator_name},     {"implementation", g.implementation},
            {"verdicts", std::move(verdicts)}, {"cases", g.cases},
            {"elements", g.elements},          {"open", g.undecided}};
  // JSON has no infinity: what failed so is in the list.
  if (g.headroom <= 1) j["error_over_bound"] = g.headroom;
  if (!failed.empty()) j["failed"] = std::move(failed);
  return j;
}

json to_json(const report::Kernels& k) {
  json ran = json::object(), never = json::array();
  for (const auto& [name, n] : k.use.executed) {
    if (n == 0)
      never.push_back(name);
    else
      ran[name] = n;
  }
  return {{"implementation", k.implementation},
          {"ran", std::move(ran)},
          {"never", std::move(never)},
          {"fallbacks", k.use.fallbacks}};
}

}  // namespace

std::string counts_json(std::span<const Record> records, const std::string& command) {
  const Environment& e = environment();
  json j = {
      {"schema", "moecheck.counts/1"}, {"command", command}, {"version", e.version}, {"commit", e.commit},
      {"compiler", e.compiler},        {"cpu", e.cpu},       {"os", e.os},           {"device", e.device}};
  json& groups = j["checks"] = json::array();
  for (const report::Group& g : report::group_records(records)) groups.push_back(to_json(g));
  json& kernels = j["kernels"] = json::array();
  for (const report::Kernels& k : report::kernels(records)) kernels.push_back(to_json(k));
  return j.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace moecheck::harness
