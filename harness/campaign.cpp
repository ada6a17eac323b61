// run_campaign: many cases in worker processes, failures shrunk, records in order.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <system_error>

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

// One byte per case that workers and parent share: set while a failure of the case is being shrunk, when its own checks are
// over. A candidate that kills the process then says nothing of the case.
class Marks {
 public:
  explicit Marks(std::size_t n) : n_(n) {
    void* p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    marks_ = static_cast<volatile char*>(p);
  }
  ~Marks() { munmap(const_cast<char*>(marks_), n_); }
  Marks(const Marks&) = delete;
  Marks& operator=(const Marks&) = delete;
  volatile char& operator[](std::size_t i) { return marks_[i]; }

 private:
  std::size_t n_;
  volatile char* marks_;
};

class Campaign {
 public:
  Campaign(const std::vector<Case>& cases, std::span<const Implementation* const> implementations,
           const CampaignOptions& options)
      : cases_(cases), implementations_(implementations), options_(options), shrinking_(cases.size() + 1) {}

  std::vector<Record> run() {
    (void)environment();  // here, once, not in each worker
    WorkerCallbacks callbacks;
    callbacks.work = [&](std::size_t i) { return checked(i, implementations_, options_.shrink, shrunk_); };
    callbacks.done = [&](std::size_t, std::string text) {
      ++done_;
      add_all(text);
    };
    callbacks.lost = [&](std::size_t i, std::string how, bool timeout) {
      ++done_;
      // The process died somewhere in the case: find out with which implementation by giving each a process of its own.
      for (const Implementation* impl : implementations_) {
        if (implementations_.size() == 1 && !shrinking_[i])
          lost(i, *impl, how, timeout);
        else
          run_alone(i, *impl, !shrinking_[i]);
      }
    };
    run_in_workers(cases_.size(), {options_.jobs, options_.timeout_seconds}, callbacks);
    return std::move(records_);
  }

 private:
  using Counts = std::map<std::string, int>;

  // In a worker: all records of one case, one JSON line each.
  std::string checked(std::size_t item, std::span<const Implementation* const> implementations, bool shrinks,
                      Counts& shrunk) {
    const Case& c = cases_[item];
    std::string lines;
    std::vector<Record> records = check_case(c, implementations, options_.check);
    for (std::size_t i = 0; i < records.size(); ++i) {
      Record& r = records[i];
      r.suite = options_.suite;
      if (options_.amend) options_.amend(r);  // known failures are not shrunk again
      if (shrinks && is_failure(r.result.verdict) && r.result.verdict != Verdict::kCrash &&
          r.result.verdict != Verdict::kTimeout && first_few(shrunk, r)) {
        shrinking_[item] = 1;
        r.shrunk = smallest_failing(c, r, *implementations[i], options_.check);
        shrinking_[item] = 0;
      }
      lines += to_json(r) + "\n";
    }
    return lines;
  }

  // In the parent: one implementation in a process of its own.
  void run_alone(std::size_t i, const Implementation& impl, bool shrinks) {
    const Implementation* one[] = {&impl};
    Counts none;
    shrinking_[i] = 0;
    WorkerCallbacks alone;
    alone.work = [&](std::size_t) { return checked(i, one, shrinks, none); };
    alone.done = [&](std::size_t, std::string text) { add_all(text); };
    alone.lost = [&](std::size_t, std::string how, bool timeout) {
      if (shrinking_[i])
        run_alone(i, impl, false);
      else
        lost(i, impl, how, timeout);
    };
    run_in_workers(1, {1, options_.timeout_seconds}, alone);
  }

  void lost(std::size_t i, const Implementation& impl, const std::string& how, bool timeout) {
    Record r = lost_record(cases_[i], impl, how, timeout);
    r.suite = options_.suite;
    if (options_.amend) options_.amend(r);
    // Every candidate that hangs would cost its whole time: those stay as they are.
    if (options_.shrink && !timeout && is_failure(r.result.verdict) && first_few(shrunk_, r)) r.shrunk = shrunk_crash(cases_[i], impl, how);
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

  static bool first_few(Counts& counts, const Record& r) {
    return counts[r.operator_name + r.implementation]++ < kShrunkPerImplementation;
  }

  void add_all(std::string_view lines) {
    for (std::size_t at = 0; at < lines.size();) {
      const std::size_t end = lines.find('\n', at);
      add(record_from_json(lines.substr(at, end - at)));
      at = end + 1;
    }
  }

  void add(Record r) {
    if (options_.on_record) options_.on_record(r, done_, cases_.size());
    records_.push_back(std::move(r));
  }

  const std::vector<Case>& cases_;
  const std::span<const Implementation* const> implementations_;
  const CampaignOptions& options_;
  std::vector<Record> records_;
  Counts shrunk_;  // in each worker: its own count
  Marks shrinking_;
  std::size_t done_ = 0;
};

}  // namespace

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

std::vector<Record> run_campaign(const std::vector<Case>& cases,
                                 std::span<const Implementation* const> implementations,
                                 const CampaignOptions& options) {
  return Campaign(cases, implementations, options).run();
}

}  // namespace moecheck::harness
