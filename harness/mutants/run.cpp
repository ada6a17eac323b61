#include "harness/mutants/run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <new>
#include <system_error>

#include "harness/mutants/unit_tests.h"
#include "harness/operator.h"
#include "harness/runner.h"
#include "harness/text.h"
#include "harness/workers.h"

namespace moecheck::harness::mutants {
namespace {

using Clock = std::chrono::steady_clock;

double now() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

// Where a worker is with a mutant, for its parent in case it dies there.
struct Place {
  double start = 0;
  std::int64_t asked = 0;  // the case it is at counts
  int stage = 0, implementation = 0, at = 0;
};

class Places {
 public:
  explicit Places(std::size_t n) : bytes_(std::max<std::size_t>(n, 1) * sizeof(Place)) {
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    places_ = new (p) Place[n];
  }
  ~Places() { munmap(places_, bytes_); }
  Places(const Places&) = delete;
  Places& operator=(const Places&) = delete;
  Place& operator[](std::size_t i) { return places_[i]; }

 private:
  std::size_t bytes_;
  Place* places_;
};

// The comparison alone costs a fraction of the clauses, which run a kernel again and again: it goes first over the whole suite.
struct Stage {
  std::string_view name;
  Suite suite;
  CheckOptions check;
};
const std::vector<Stage>& stages(Gate gate, bool exhaustive) {
  static const std::vector<Stage> everything = {
      {"quick, all clauses", Suite::kQuick, {.relations_of_wrong_outputs = true}},
      {"adversarial", Suite::kAdversarial, {.relations_of_wrong_outputs = true}},
      {"models", Suite::kModels, {.relations_of_wrong_outputs = true}},
  };
  static const std::vector<Stage> ci = {
      {"quick", Suite::kQuick, {.clauses = false, .relations = false}},
      {"quick, all clauses", Suite::kQuick, {}},
      {"adversarial", Suite::kAdversarial, {}},
      {"models", Suite::kModels, {}},
  };
  static const std::vector<Stage> sanitizer = {{"quick", Suite::kQuick, {}},
                                               {"adversarial", Suite::kAdversarial, {}}};
  if (gate == Gate::kSanitizer) return sanitizer;
  return exhaustive ? everything : ci;
}

// What noticed it, in the order they were asked: the comparison, broken clauses; else the verdict.
std::vector<std::string> noticed_by(const Record& r) {
  std::vector<std::string> checks;
  if (r.result.failed + r.result.suspect > 0) checks.emplace_back("comparison");
  for (const ClauseResult& c : r.result.clauses)
    if (c.verdict == Verdict::kFail) checks.push_back(c.name);
  if (!checks.empty()) return checks;
  switch (r.result.verdict) {
    case Verdict::kFail:
      return {"exception"};  // or a refusal by the executor
    case Verdict::kCrash:
      return {"crash"};
    case Verdict::kTimeout:
      return {"timeout"};
    default:
      return {std::string(harness::name(r.result.verdict))};
  }
}

// A kernel runs and nobody looks at what it wrote.
void run_only(const Case& c, const Implementation& impl) {
  const Operator& op = operator_of(c);
  if (op.refusal(c) || impl.unsupported(c)) return;
  constexpr int kThreads = 3;  // races need some
  TensorSet inputs(op.inputs(c)), outputs(op.outputs(c));
  op.generate(c, inputs);
  op.reset_outputs(c, inputs, outputs);
  try {
    impl.run(c, inputs, outputs, {kThreads});
  } catch (const std::exception&) {  // it refused the work: no sanitizer saw anything
  }
}

void put_repro(Result& r, const Case& c, const std::string& implementation) {
  r.repro = fmt::format("moecheck repro {} --impl {}", shell_quoted(c.str()), shell_quoted(implementation));
}

// ---- Faults of kernels

class KernelRun {
 public:
  KernelRun(const Mutant& m, const Options& options, Place& place)
      : m_(m), options_(options), stages_(stages(options.gate, options.exhaustive)), place_(place) {}

  // In a worker: until it is killed; where the run is exhaustive, to the end of that suite.
  Result run() {
    result_.mutant = m_;
    result_.gate = options_.gate;
    result_.outcome = Outcome::kSurvived;
    place_.start = now();
    for (std::size_t s = 0; s < stages_.size(); ++s)
      if (ask(s)) break;
    if (result_.outcome == Outcome::kSurvived) stop_clock();
    return result_;
  }

 private:
  // One suite; whether something noticed.
  bool ask(std::size_t stage) {
    const std::vector<Case> cases = find_operator(m_.op)->cases(stages_[stage].suite);
    for (std::size_t at = 0; at < cases.size(); ++at)
      for (std::size_t i = 0; i < m_.implementations.size(); ++i) {
        const Implementation* one[] = {find_implementation(m_.implementations[i])};
        place_ = {place_.start, place_.asked + 1, static_cast<int>(stage), static_cast<int>(i),
                  static_cast<int>(at)};
        if (options_.gate == Gate::kSanitizer) {
          run_only(cases[at], *one[0]);
          continue;
        }
        const Record record = check_case(cases[at], one, stages_[stage].check).front();
        if (!is_failure(record.result.verdict)) continue;
        note(record, stages_[stage], cases[at], m_.implementations[i]);
        if (!options_.exhaustive) return true;
      }
    return result_.outcome == Outcome::kKilled;
  }

  void note(const Record& record, const Stage& stage, const Case& c, const std::string& implementation) {
    const std::vector<std::string> checks = noticed_by(record);
    if (result_.outcome != Outcome::kKilled) {
      result_.outcome = Outcome::kKilled;
      result_.killer = checks.front();
      if (result_.killer == "exception") result_.detail = record.result.reason;
      result_.suite = stage.name;
      put_repro(result_, c, implementation);
      stop_clock();
    }
    if (!options_.exhaustive) return;
    for (const std::string& check : checks)
      if (std::ranges::find(result_.noticed, check) == result_.noticed.end())
        result_.noticed.push_back(check);
  }

  void stop_clock() {
    result_.seconds = now() - place_.start;
    result_.asked = place_.asked;
  }

  const Mutant& m_;
  const Options& options_;
  const std::vector<Stage>& stages_;
  Place& place_;
  Result result_;
};

// Its process died at `place`.
Result died(const Mutant& m, const Options& options, const Place& place, const std::string& how,
            bool timeout) {
  Result r;
  r.mutant = m;
  r.gate = options.gate;
  r.outcome = Outcome::kKilled;
  r.killer = timeout ? "timeout" : sanitizer_of_build().empty() ? "crash" : "sanitizer";
  if (options.exhaustive) r.noticed = {r.killer};
  r.detail = how;
  const Stage& stage = stages(options.gate, options.exhaustive)[static_cast<std::size_t>(place.stage)];
  r.suite = stage.name;
  put_repro(r, find_operator(m.op)->cases(stage.suite)[static_cast<std::size_t>(place.at)],
            m.implementations[static_cast<std::size_t>(place.implementation)]);
  r.seconds = now() - place.start;
  r.asked = place.asked;
  return r;
}

Result not_run(const Mutant& m, Gate gate, std::string why) {
  Result r;
  r.mutant = m;
  r.gate = gate;
  r.detail = std::move(why);
  return r;
}

class Run {
 public:
  Run(const std::vector<Mutant>& mutants, const Options& options)
      : mutants_(mutants), options_(options), places_(mutants.size()) {}

  std::vector<Result> run() {
    if (options_.gate == Gate::kCi && !options_.tests.empty())
      unusable_ = unusable_filters(mutants_, options_);
    WorkerCallbacks callbacks;
    callbacks.work = [&](std::size_t i) { return to_json(ask(i)); };
    callbacks.done = [&](std::size_t, const std::string& line) { add(result_from_json(line)); };
    callbacks.lost = [&](std::size_t i, const std::string& how, bool timeout) {
      add(mutants_[i].tests.empty() ? died(mutants_[i], options_, places_[i], how, timeout)
                                    : not_run(mutants_[i], options_.gate, how));
    };
    run_in_workers(mutants_.size(), {options_.jobs, options_.timeout_seconds + 10}, callbacks);
    return std::move(results_);
  }

 private:
  // In a worker.
  Result ask(std::size_t i) {
    const Mutant& m = mutants_[i];
    silence();
    for (const std::string& name : m.implementations)
      if (find_implementation(name) == nullptr)
        return not_run(m, options_.gate, "there is no implementation " + name);
    if (m.tests.empty()) return KernelRun(m, options_, places_[i]).run();
    if (options_.gate != Gate::kCi) return not_run(m, options_.gate, "asked of kernels alone");
    if (options_.tests.empty()) return not_run(m, options_.gate, options_.why_no_tests);
    if (const auto why = unusable_.find(m.tests); why != unusable_.end())
      return not_run(m, options_.gate, why->second);
    return ask_tests(m, options_);
  }

  // What a sanitizer says of a mutant is expected, and there are many.
  static void silence() {
    if (const int nothing = open("/dev/null", O_WRONLY | O_CLOEXEC); nothing >= 0) {
      dup2(nothing, STDERR_FILENO);
      close(nothing);
    }
  }

  void add(Result r) {
    if (r.outcome == Outcome::kSurvived && !r.mutant.equivalent.empty()) r.outcome = Outcome::kEquivalent;
    r.sanitizer = sanitizer_of_build();
    results_.push_back(std::move(r));
    if (options_.on_result) options_.on_result(results_.back(), results_.size(), mutants_.size());
  }

  const std::vector<Mutant>& mutants_;
  const Options& options_;
  Places places_;
  std::map<std::string, std::string> unusable_;
  std::vector<Result> results_;
};

}  // namespace

std::string_view sanitizer_of_build() {
#if defined(__SANITIZE_ADDRESS__)
  return "address";
#elif defined(__SANITIZE_THREAD__)
  return "thread";
#else
  return "";
#endif
}

std::vector<Result> run(const std::vector<Mutant>& mutants, const Options& options) {
  return Run(mutants, options).run();
}

}  // namespace moecheck::harness::mutants
