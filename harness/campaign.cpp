// CaseWorkers, run_campaign: many cases in worker processes, failures shrunk, records in order.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "harness/json.h"
#include "harness/runner.h"
#include "harness/shrink.h"
#include "harness/workers.h"

namespace moecheck::harness {
namespace {

// Shrinking every failure of a broken kernel tells one story a thousand times.
constexpr int kShrunkPerImplementation = 3;
constexpr double kCandidateSeconds = 4;  // of a candidate that should crash

// What makes two failures the same one: shrinking must not wander to another.
std::string kind_of(const Judgement& j) {
  const std::string kind(name(j.verdict));
  if (j.failed > 0) return kind + " elements";
  for (const ClauseResult& c : j.clauses)
    if (c.verdict == Verdict::kFail) return kind + " " + c.name;
  return kind;
}

using Counts = std::map<std::string, int>;

int& shrunk_of(Counts& counts, const Record& r) { return counts[r.operator_name + r.implementation]; }

std::string lines_of(const std::vector<Record>& records) {
  std::string lines;
  for (const Record& r : records) lines += to_json(r) + "\n";
  return lines;
}

using Implementations = std::span<const Implementation* const>;

}  // namespace

class CaseWorkers::Impl {
 public:
  Impl(Implementations implementations, const CampaignOptions& options)
      : implementations_(implementations.begin(), implementations.end()),
        options_(options),
        workers_({options.jobs, options.timeout_seconds}, work(implementations_, options.shrink)) {
    (void)environment();  // here, once, not in each worker
  }

  std::vector<Record> run(const std::vector<Case>& cases, std::string_view suite) {
    cases_ = &cases, suite_ = suite, done_ = 0;
    records_.clear();
    std::vector<std::string> requests;
    for (const Case& c : cases) requests.push_back(c.str());
    workers_.run(
        requests,
        [&](std::size_t, const std::string& text) {
          ++done_;
          add_all(text);
        },
        [&](std::size_t i, const std::string& how, bool timeout, const std::string& kept) {
          ++done_;
          if (!kept.empty()) {
            add_all(kept);
          } else if (implementations_.size() == 1) {
            lost(cases[i], *implementations_.front(), how, timeout);
          } else {
            // The process died somewhere in the case: find out with which implementation by giving each a process of its own.
            for (const Implementation* impl : implementations_) run_alone(cases[i], *impl);
          }
        });
    return std::move(records_);
  }

 private:
  // In a worker: all records of one case, one JSON line each. They are kept while their failures are being shrunk: a candidate that
  // kills the process says nothing of the case.
  Workers::Work work(Implementations implementations, bool shrinks) {
    return [=, this](const std::string& line, const Workers::Keep& keep) {
      const Case c = parse_case(line);
      std::vector<Record> records = check_case(c, implementations, options_.check);
      if (options_.amend)
        for (Record& r : records) options_.amend(r);  // known failures are not shrunk again
      for (std::size_t i = 0; shrinks && i < records.size(); ++i) {
        Record& r = records[i];
        if (!is_failure(r.result.verdict) || r.result.verdict == Verdict::kCrash ||
            r.result.verdict == Verdict::kTimeout || shrunk_of(shrunk_, r) >= kShrunkPerImplementation)
          continue;
        keep(lines_of(records));
        ++shrunk_of(shrunk_, r);
        r.shrunk = smallest_failing(c, r, *implementations[i], options_.check);
      }
      return lines_of(records);
    };
  }

  // In the parent: one implementation in a process of its own.
  void run_alone(const Case& c, const Implementation& impl) {
    const Implementation* one[] = {&impl};
    Workers alone({1, options_.timeout_seconds}, work(one, options_.shrink));
    alone.run(
        {c.str()}, [&](std::size_t, const std::string& text) { add_all(text); },
        [&](std::size_t, const std::string& how, bool timeout, const std::string& kept) {
          if (kept.empty())
            lost(c, impl, how, timeout);
          else
            add_all(kept);
        });
  }

  void lost(const Case& c, const Implementation& impl, const std::string& how, bool timeout) {
    Record r = lost_record(c, impl, how, timeout);
    if (options_.amend) options_.amend(r);
    // Every candidate that hangs would cost its whole time: those stay as they are.
    if (options_.shrink && !timeout && is_failure(r.result.verdict) &&
        shrunk_of(shrunk_, r) < kShrunkPerImplementation)
      r.shrunk = shrunk_crash(c, impl, how);
    add(std::move(r));
  }

  // The smallest case that ends its process in the same way; each candidate in a process of its own.
  std::string shrunk_crash(const Case& c, const Implementation& impl, const std::string& how) {
    const Implementation* one[] = {&impl};
    const auto crashes = [&](const Case& candidate) {
      bool same = false;
      WorkerCallbacks alone;
      alone.work = [&](std::size_t) {
        (void)check_case(candidate, one, options_.check);
        return std::string();
      };
      alone.done = [](std::size_t, std::string) {};
      alone.lost = [&](std::size_t, std::string end, bool) { same = end == how; };
      run_in_workers(1, {1, std::min(kCandidateSeconds, options_.timeout_seconds)}, alone);
      return same;
    };
    return shrink(c, crashes).smallest.str();
  }

  void add_all(std::string_view lines) {
    for (std::size_t at = 0; at < lines.size();) {
      const std::size_t end = lines.find('\n', at);
      add(record_from_json(lines.substr(at, end - at)));
      at = end + 1;
    }
  }

  void add(Record r) {
    r.suite = suite_;
    if (!r.shrunk.empty()) ++shrunk_of(shrunk_, r);
    if (options_.on_record) options_.on_record(r, done_, cases_->size());
    records_.push_back(std::move(r));
  }

  const std::vector<const Implementation*> implementations_;
  const CampaignOptions options_;
  Workers workers_;
  Counts shrunk_;  // in a worker: of those before it, and its own
  // Of the run at hand:
  const std::vector<Case>* cases_ = nullptr;
  std::string_view suite_;
  std::vector<Record> records_;
  std::size_t done_ = 0;
};

CaseWorkers::CaseWorkers(Implementations implementations, const CampaignOptions& options)
    : impl_(std::make_unique<Impl>(implementations, options)) {}

CaseWorkers::~CaseWorkers() = default;

std::vector<Record> CaseWorkers::run(const std::vector<Case>& cases, std::string_view suite) {
  return impl_->run(cases, suite);
}

std::string smallest_failing(const Case& c, const Record& failing, const Implementation& implementation,
                             const CheckOptions& options) {
  const std::string kind = kind_of(failing.result);
  const Implementation* one[] = {&implementation};
  const auto fails = [&](const Case& candidate) {
    const std::vector<Record> records = check_case(candidate, one, options);
    return kind_of(records.front().result) == kind;
  };
  return shrink(c, fails).smallest.str();
}

std::vector<Record> run_campaign(const std::vector<Case>& cases, Implementations implementations,
                                 const CampaignOptions& options) {
  return CaseWorkers(implementations, options).run(cases, options.suite);
}

}  // namespace moecheck::harness
