// A comparison as JSON: schema moecheck.compare/1.
#include <cmath>

#include "harness/json.h"
#include "harness/tasks/compare.h"
#include "harness/tasks/python_text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

Json counts_json(const PairedCounts& c) {
  return {{"n", c.n()},           {"regressions", c.regressions}, {"fixes", c.fixes},
          {"both_right", c.both}, {"both_wrong", c.neither},      {"discordance", c.discordance()}};
}

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

Json filter_json(const FilterComparison& f) {
  const PairedVerdict& v = f.verdict;
  Json j;
  j["filter"] = f.filter;
  j["a"] = {{"right", f.a.right}, {"mean", number(f.a.mean)}, {"stderr", number(f.a.standard_error)}};
  j["b"] = {{"right", f.b.right}, {"mean", number(f.b.mean)}, {"stderr", number(f.b.standard_error)}};
  j["counts"] = counts_json(f.counts);
  j["difference"] = f.counts.difference();
  j["standard_error"] = number(f.counts.standard_error());
  j["interval"] = {v.interval.low, v.interval.high};
  j["mcnemar_two_sided_p"] = v.two_sided_p;
  j["mcnemar_worse_p"] = v.worse_p;
  j["holm_worse_p"] = f.holm_worse_p;
  j["noninferiority_p"] = v.noninferiority_p;
  j["proven_margin"] = v.proven_margin;
  j["questions_needed"] = v.questions_needed;
  j["e_value"] = number(std::exp(v.log_e_value));
  j["log_e_value"] = v.log_e_value;
  j["e_value_stopped_after"] = f.stopped_after == 0 ? Json(nullptr) : Json(f.stopped_after);
  j["verdict"] = name(v.verdict);
  return j;
}

Json agreement_json(const Agreement& t) {
  return {{"compared", t.compared},
          {"identical", t.identical},
          {"share", t.share()},
          {"a_past_stop", t.a_past_stop},
          {"b_past_stop", t.b_past_stop},
          {"median_first_divergence", t.median_divergence < 0 ? Json(nullptr) : Json(t.median_divergence)}};
}

Json arm_json(const Summary& s, const std::string& model, const std::string& path) {
  Json j{{"model", model},         {"path", path},       {"asked", s.asked},
         {"answered", s.answered}, {"failed", s.failed}, {"truncated", s.truncated},
         {"empty", s.empty},       {"run_on", s.run_on}, {"loops", s.loops}};
  for (const FilterSummary& f : s.filters)
    for (std::size_t o = 0; o < kOutcomes; ++o)
      j["outcomes"][f.filter][std::string(name(static_cast<Outcome>(o)))] = f.outcomes[o];
  return j;
}

}  // namespace

std::string comparison_json(const Comparison& c) {
  Json j;
  j["schema"] = "moecheck.compare/1";
  j["verdict"] = name(c.verdict);
  j["reason"] = c.reason;
  j["task"] = c.task;
  j["task_hash"] = c.task_hash;
  j["margin"] = c.options.margin;
  j["alpha"] = c.options.alpha;
  j["pairs"] = c.pairs;
  j["texts_compared_up_to"] = c.until;
  j["primary_filter"] = c.filters[c.primary].filter;
  j["a"] = arm_json(c.a, c.a_model, c.a_path);
  j["b"] = arm_json(c.b, c.b_model, c.b_path);
  j["filters"] = Json::array();
  for (const FilterComparison& f : c.filters) j["filters"].push_back(filter_json(f));
  j["changes"] = Json::array();
  for (const OutcomeChange& o : c.changes)
    j["changes"].push_back({{"kind", o.kind}, {"a", o.a}, {"b", o.b}, {"mcnemar_p", o.p}});
  j["texts"] = agreement_json(c.texts);
  j["noise"] = nullptr;
  if (c.noise)
    j["noise"] = {{"counts", counts_json(c.noise->counts)},
                  {"texts", agreement_json(c.noise->texts)},
                  {"sd_of_difference", c.noise->sd},
                  {"excess_flips_p", c.noise->excess_p},
                  {"excess_texts_p", c.noise->excess_text_p}};
  j["flips"] = Json::array();
  for (const Flip& f : c.flips)
    j["flips"].push_back(
        {{"doc_id", f.doc_id},
         {"direction", f.regression ? "right_to_wrong" : "wrong_to_right"},
         {"a", {{"extracted", f.a_extracted}, {"outcome", name(f.a_outcome)}, {"text", f.a_text}}},
         {"b", {{"extracted", f.b_extracted}, {"outcome", name(f.b_outcome)}, {"text", f.b_text}}},
         {"first_divergence", f.divergence < 0 ? Json(nullptr) : Json(f.divergence)}});
  j["invalid"] = c.invalid;
  j["notes"] = c.notes;
  return python_json(j, 1);
}

}  // namespace moecheck::harness
