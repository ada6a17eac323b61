// moecheck headroom: how close to their bounds the passing checks are, kept per
// commit and compared.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/ledger/headroom.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

struct HeadroomArguments {
  std::vector<std::string> records;
  std::string ledger, against;
  bool append = false, verbose = false;
  ledger::DriftRule rule;
};

void print_table(const std::vector<ledger::Headroom>& lines) {
  std::size_t width = 5;
  for (const ledger::Headroom& h : lines) width = std::max(width, ledger::key_text(h.key).size());
  fmt::print("{:<{}}  {:>5}  {:>7}  {:>7}  {:>9}\n", "group", width, "cases", "max", "q99", "row error");
  for (const ledger::Headroom& h : lines)
    fmt::print("{:<{}}  {:>5}  {:>7}  {:>7}  {:>9.3g}{}\n", ledger::key_text(h.key), width, grouped(h.cases),
               ratio_text(h.max), ratio_text(h.q99), h.row_error,
               h.failed == 0 ? "" : fmt::format("  {} failed", grouped(h.failed)));
}

// The exit code of the comparison.
int compare(const HeadroomArguments& a, const std::vector<ledger::Headroom>& now) {
  const bool begins = a.append && a.against == "last" && access(a.ledger.c_str(), F_OK) != 0;
  const std::vector<ledger::Headroom> kept =
      begins ? std::vector<ledger::Headroom>{} : ledger::read_ledger(a.ledger);
  const std::vector<ledger::Drift> drifts = ledger::compare_headroom(now, kept, a.against, a.rule);
  std::int64_t drifted = 0, compared = 0;
  for (const ledger::Drift& d : drifts) {
    drifted += d.drifted();
    compared += d.not_compared.empty();
    if (d.drifted() || a.verbose) fmt::print("{}", ledger::drift_text(d));
  }
  const std::int64_t left_out = std::ssize(drifts) - compared;
  fmt::print("{} compared with {}, {} drifted by more than {}", count(compared, "group"),
             a.against == "last" ? "their last commit" : printable(a.against), grouped(drifted),
             a.rule.threshold);
  if (left_out > 0) fmt::print(", {} not compared{}", grouped(left_out), a.verbose ? "" : " (-v says why)");
  fmt::print("\n");
  return drifted > 0 ? kExitFailed : compared == 0 ? kExitNothingRan : kExitFine;
}

int headroom(const HeadroomArguments& a) {
  std::vector<Record> records;
  for (const std::string& path : a.records)
    for (Record& r : read_records(path)) records.push_back(std::move(r));
  const std::vector<ledger::Headroom> now = ledger::measure_headroom(records);
  if (now.empty()) {
    fmt::print(stderr, "moecheck: the records hold no check that ran\n");
    return kExitNothingRan;
  }
  if (a.against.empty() && (!a.append || a.verbose)) print_table(now);
  const int compared = a.against.empty() ? kExitFine : compare(a, now);
  if (!a.append) return compared;
  if (compared == kExitFailed) {
    fmt::print("nothing was appended: find the cause, or accept the drift by --append without --against\n");
    return compared;
  }
  ledger::append_ledger(a.ledger, now);
  fmt::print("{}: {} of commit {}\n", printable(a.ledger), count(std::ssize(now), "line"),
             printable(now.front().commit));
  return kExitFine;
}

}  // namespace

void add_headroom(CLI::App& app, Action& action) {
  auto a = std::make_shared<HeadroomArguments>();
  CLI::App* sub = app.add_subcommand("headroom",
                                     "Error over bound of passing checks: show "
                                     "it, keep it per commit, flag drift");
  sub->add_option("records", a->records, "Record files of one commit")
      ->type_name("RECORDS.jsonl")
      ->required();
  CLI::Option* file = sub->add_option("--ledger", a->ledger, "The ledger, a line per commit and group")
                          ->type_name("FILE.jsonl");
  sub->add_flag("--append", a->append, "Add these records to it; lines of the same commit are replaced")
      ->needs(file);
  sub->add_option("--against", a->against,
                  "Compare with this commit of it, or with the last other one; "
                  "exits with 1 on drift")
      ->type_name("COMMIT|last")
      ->needs(file);
  sub->add_option("--threshold", a->rule.threshold, "The factor by which a figure may grow")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 1e6));
  sub->add_option("--floor", a->rule.floor, "Headroom that is never flagged, as a share of the bound")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  sub->add_option("--min-cases", a->rule.min_cases, "Cases that a group needs to be compared")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000'000));
  sub->add_flag("-v,--verbose", a->verbose, "Every group");
  sub->callback([a, &action] { action = [a] { return headroom(*a); }; });
}

}  // namespace moecheck::harness
