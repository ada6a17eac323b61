// moecheck audit: can these pasted tables be true?
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/json.h"
#include "harness/statistics/table_audit.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_text.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

struct AuditArguments {
  std::string path, json;
  std::int64_t samples = 0;
};

const char* word(Finding::Kind kind) {
  return kind == Finding::Kind::kFits ? "fits" : kind == Finding::Kind::kContradicts ? "CONTRADICTS" : "note";
}

int audit(const AuditArguments& a) {
  AuditOptions options;
  if (a.samples > 0) options.samples = a.samples;
  const AuditResult r = audit_text(read_text(a.path), options);
  std::int64_t fits = 0, contradictions = 0;
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Finding& f : r.findings) {
    fits += f.kind == Finding::Kind::kFits;
    contradictions += f.kind == Finding::Kind::kContradicts;
    list.push_back({{"line", f.line}, {"kind", word(f.kind)}, {"text", printable(f.text)}});
  }
  const int code = r.findings.empty() ? kExitNothingRan : contradictions > 0 ? kExitFailed : kExitFine;
  if (!a.json.empty())
    write_text(a.json, python_json({{"claimed_samples", r.claimed}, {"findings", list}}, 1) + "\n");
  if (a.json == "-") return code;
  if (!r.claimed.empty()) fmt::print("claimed: {} samples\n", fmt::join(r.claimed, ", "));
  for (const Finding& f : r.findings)
    fmt::print("{}:{}: {}: {}\n", printable(a.path), f.line, word(f.kind), printable(f.text));
  if (r.findings.empty())
    fmt::print(
        "nothing to check: no table with Value and Stderr, ISL, OSL, MC and tok/s, no \"p ± se\", no serving "
        "benchmark result\n");
  else
    fmt::print("{} fit, {} contradict\n", count(fits, "check"), contradictions);
  return code;
}

}  // namespace

void add_audit(CLI::App& app, Action& action) {
  auto a = std::make_shared<AuditArguments>();
  CLI::App* sub = app.add_subcommand("audit", "Consistency of pasted accuracy and throughput tables");
  sub->footer("Exit codes: 0 everything fits, 1 a contradiction, 2 bad usage or input, 3 nothing to check.");
  sub->add_option("table", a->path,
                  "Markdown or plain text, as pasted into a pull request; - is standard input")
      ->required()
      ->type_name("TABLE.md|-");
  sub->add_option("--samples", a->samples, "The sample size claimed (what the text says when left out)")
      ->check(CLI::Range(1, 100000000))
      ->type_name("N");
  sub->add_option("--json", a->json, "Write the findings; - is standard output")->type_name("FILE|-");
  sub->callback([a, &action] { action = [a] { return audit(*a); }; });
}

}  // namespace moecheck::harness
