// run_campaign: many cases in worker processes, failures shrunk, records in order.
#include <fmt/format.h>

#include <map>

#include "harness/json.h"
#include "harness/runner.h"
#include "harness/shrink.h"
#include "harness/workers.h"

namespace moecheck::harness {
namespace {

// Shrinking every failure of a broken kernel tells one story a thousand times.
constexpr int kShrunkPerImplementation = 3;

// What makes two failures the same one: shrinking must not wander to another.
std::string kind_of(const Judgement& j) {
  std::string kind = fmt::format("{}", name(j.verdict));
  for (const ClauseResult& c : j.clauses)
    if (c.verdict == Verdict::kFail) return kind + (j.failed > 0 ? "" : " " + c.name);
  return kind;
}

std::string shrunk_line(const Case& c, const Record& failing, const Implementation& implementation,
                        const CheckOptions& options) {
  const std::string kind = kind_of(failing.result);
  const Implementation* one[] = {&implementation};
  const auto fails = [&](const Case& candidate) {
    const std::vector<Record> records = check_case(candidate, one, options);
    return kind_of(records.front().result) == kind;
  };
  return shrink(c, fails).smallest.str();
}

// In a worker: all records of one case, one JSON line each.
std::string checked(const Case& c, std::span<const Implementation* const> implementations,
                    const CampaignOptions& options, std::map<std::string, int>& shrunk) {
  std::string lines;
  std::vector<Record> records = check_case(c, implementations, options.check);
  for (std::size_t i = 0; i < records.size(); ++i) {
    Record& r = records[i];
    r.suite = options.suite;
    if (options.shrink && is_failure(r.result.verdict) &&
        shrunk[r.operator_name + r.implementation]++ < kShrunkPerImplementation)
      r.shrunk = shrunk_line(c, r, *implementations[i], options.check);
    lines += to_json(r) + "\n";
  }
  return lines;
}

}  // namespace

std::vector<Record> run_campaign(const std::vector<Case>& cases,
                                 std::span<const Implementation* const> implementations,
                                 const CampaignOptions& options) {
  std::vector<Record> records;
  std::map<std::string, int> shrunk;  // in each worker: its own count
  std::size_t done = 0;
  const auto add = [&](Record r) {
    if (options.on_record) options.on_record(r, done, cases.size());
    records.push_back(std::move(r));
  };
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t i) { return checked(cases[i], implementations, options, shrunk); };
  callbacks.done = [&](std::size_t, std::string text) {
    ++done;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      add(record_from_json(std::string_view(text).substr(at, end - at)));
      at = end + 1;
    }
  };
  // The process died somewhere in the case: find out with which implementation by giving each a process of its own.
  callbacks.lost = [&](std::size_t i, std::string how, bool timeout) {
    ++done;
    for (const Implementation* impl : implementations) {
      const Implementation* one[] = {impl};
      const auto lost = [&](std::size_t, std::string why, bool late) {
        Record r = skipped_record(cases[i], impl->name(), late ? Verdict::kTimeout : Verdict::kCrash,
                                  late ? why : "the process that ran it ended with " + why);
        r.suite = options.suite;
        add(std::move(r));
      };
      if (implementations.size() == 1) {
        lost(i, how, timeout);
        break;
      }
      WorkerCallbacks alone;
      std::map<std::string, int> none;
      alone.work = [&](std::size_t) { return checked(cases[i], one, options, none); };
      alone.done = [&](std::size_t, std::string text) {
        add(record_from_json(std::string_view(text).substr(0, text.find('\n'))));
      };
      alone.lost = lost;
      run_in_workers(1, {1, options.timeout_seconds}, alone);
    }
  };
  run_in_workers(cases.size(), {options.jobs, options.timeout_seconds}, callbacks);
  return records;
}

}  // namespace moecheck::harness
