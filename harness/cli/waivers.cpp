// moecheck waivers: every known failure, its issue, and whether records still
// show it.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/ledger/waivers.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

struct WaiverArguments {
  std::vector<std::string> records;
  std::string waivers = "waivers.jsonl";
  bool allow_expired = false;
};

std::string state_text(const ledger::AuditedWaiver& a, bool has_records) {
  if (!has_records) return a.state == ledger::WaiverState::kOutOfDate ? "out of date" : "in force";
  const std::string cases =
      a.failing + a.passing == 0
          ? ""
          : fmt::format(", {} failing, {} passing", count(a.failing, "case"), grouped(a.passing));
  return fmt::format("{}{}", name(a.state), cases);
}

int list_waivers(const WaiverArguments& a) {
  const ledger::Waivers waivers = ledger::read_waivers(a.waivers);
  std::vector<Record> records;
  for (const std::string& path : a.records)
    for (Record& r : read_records(path)) records.push_back(std::move(r));
  const std::vector<ledger::AuditedWaiver> audited = ledger::audit(waivers, records, ledger::today());
  for (const ledger::AuditedWaiver& w : audited) {
    const ledger::WaiverText& t = w.line->waiver.text();
    fmt::print("{}:{}  {}  {}\n  {}\n  {}\n  added {}{}\n", printable(a.waivers), w.line->line,
               w.line->waiver.issue().text(), state_text(w, !records.empty()),
               printable(w.line->waiver.pattern()), printable(t.reason), t.added,
               t.until.empty() ? "" : ", until " + t.until);
  }
  fmt::print("{}{}\n", count(std::ssize(audited), "waiver"),
             records.empty() ? "; give records to see which cases still need them" : "");
  if (records.empty()) return kExitFine;
  return print_waivers(waivers, audited, a.allow_expired) ? kExitFailed : kExitFine;
}

}  // namespace

bool print_waivers(const ledger::Waivers& waivers, std::span<const ledger::AuditedWaiver> audited,
                   bool allow_expired) {
  bool expired = false;
  for (const ledger::AuditedWaiver& a : audited) {
    const std::string text = ledger::attention_text(waivers, a);
    if (!text.empty()) fmt::print("{}\n", printable(text));
    expired = expired || a.state == ledger::WaiverState::kExpired;
  }
  return expired && !allow_expired;
}

void add_waivers(CLI::App& app, Action& action) {
  auto a = std::make_shared<WaiverArguments>();
  CLI::App* sub =
      app.add_subcommand("waivers", "List known failures, their issues and whether they are needed");
  sub->add_option("records", a->records, "Records to see that in")->type_name("RECORDS.jsonl");
  sub->add_option("--waivers", a->waivers, "The waivers, a JSON object a line")
      ->type_name("FILE.jsonl")
      ->capture_default_str();
  sub->add_flag("--allow-expired", a->allow_expired, "Expired ones are no failure: for part of the cases");
  sub->callback([a, &action] { action = [a] { return list_waivers(*a); }; });
}

}  // namespace moecheck::harness
