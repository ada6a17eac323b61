// moecheck fuzz: random cases until time is up. moecheck merge: the records of several processes as one.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <optional>
#include <thread>

#include "harness/cli/cli.h"
#include "harness/fuzz/campaign.h"
#include "harness/fuzz/record_log.h"
#include "harness/ledger/waivers.h"
#include "harness/text.h"
#include "harness/verdict_text.h"

namespace moecheck::harness {
namespace {

struct FuzzArguments {
  std::vector<std::string> operators, implementations;
  std::string time, corpus, shard, records, waivers;
  std::uint64_t cases = 0, seed = 1;
  int jobs = 0, threads = 1;
  double timeout = 60;
  bool has_cases = false, tensors = false, no_shrink = false, no_relations = false;
};

// "90s", "10m", "1.5h"; a bare number is seconds.
double seconds_of(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const double factor = unit.empty() || unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
  if (error != std::errc() || factor == 0 || !(value > 0) || !std::isfinite(value))
    throw UsageError(fmt::format("--time {}: write a number and a unit: 90s, 10m or 2h", printable(text)));
  return value * factor;
}

// The first ^C, or what a cluster sends before it ends a job, lets the cases at hand finish and prints the summary; another ^C a
// moment later ends the process. (Starters like to send a signal twice, to the process and to its group.) Workers inherit this
// and finish their cases.
volatile sig_atomic_t stopped = 0;
volatile std::time_t stopped_at = 0;

void stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = [](int signal) {
    if (signal == SIGINT && stopped != 0 && time(nullptr) > stopped_at + 1) _exit(128 + SIGINT);
    if (stopped == 0) stopped_at = time(nullptr);
    stopped = 1;
  };
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

// One line on stderr that is rewritten, on a terminal only.
class ProgressLine {
 public:
  explicit ProgressLine(std::string limit) : limit_(std::move(limit)), on_(isatty(STDERR_FILENO) == 1) {}
  ~ProgressLine() { clear(); }
  void show(const FuzzProgress& p) {
    if (!on_) return;
    fmt::print(stderr, "\r\033[K{}, {:.0f} a second, {}, {:.0f} s{}", count(p.cases, "case"),
               static_cast<double>(p.cases) / std::max(p.seconds, 1e-3),
               count(static_cast<std::int64_t>(p.findings), "cause") + " of failure", p.seconds, limit_);
    std::fflush(stderr);
    shown_ = true;
  }
  void clear() {
    if (shown_) fmt::print(stderr, "\r\033[K");
    shown_ = false;
  }

 private:
  std::string limit_;
  bool on_, shown_ = false;
};

FuzzOptions options_of(const FuzzArguments& a) {
  FuzzOptions o;
  for (const std::string& name : a.operators) o.operators.push_back(&require_operator(name));
  if (o.operators.empty()) o.operators.assign(operators().begin(), operators().end());
  for (const std::string& name : a.implementations)
    o.implementations.push_back(&require_implementation(name));
  if (o.implementations.empty())
    for (const Implementation* impl : implementations())
      if (impl->name() != "reference") o.implementations.push_back(impl);
  o.seed = a.seed;
  if (a.has_cases) o.cases = a.cases;
  if (!a.time.empty()) o.seconds = seconds_of(a.time);
  if (!a.has_cases && a.time.empty()) o.seconds = 60;
  o.shard = a.shard.empty()
                ? shard_of_environment([](const char* name) -> const char* { return std::getenv(name); })
                : parse_shard(a.shard);
  o.tensors = a.tensors;
  o.shrink = !a.no_shrink;
  o.check = {true, !a.no_relations, a.threads};
  o.jobs = a.jobs > 0 ? a.jobs : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  // Ranks share a machine's processors: one worker each, unless told.
  if (a.jobs == 0 && o.shard.count > 1 && o.shard.source != "--shard") o.jobs = 1;
  o.timeout_seconds = a.timeout;
  return o;
}

void print_finding(const FuzzFinding& f, bool color) {
  fmt::print("{}", verdict_text(f.record, color));
  if (f.known) fmt::print("  known: the corpus has it\n");
  if (!f.repeats) fmt::print("  it did not fail a second time: it depends on more than the case\n");
  if (!f.path.empty()) fmt::print("  corpus: {}\n", printable(f.path));
  fmt::print("\n");
  std::fflush(stdout);
}

constexpr std::size_t kDiagnosisWidth = 100;  // enough to tell causes apart

void print_findings(const std::vector<FuzzFinding>& findings) {
  if (findings.empty()) return;
  fmt::print("\n{}:\n", count(std::ssize(findings), "cause") + " of failure");
  for (const FuzzFinding& f : findings)
    fmt::print("  {} {} {}: {}{}, {}{}{}\n", name(f.cause.verdict), f.cause.implementation,
               f.cause.operator_name, printable(f.cause.check), f.known ? " (known)" : "",
               count(f.times, "case"), f.cause.diagnosis.empty() ? "" : ": ",
               printable(f.cause.diagnosis, kDiagnosisWidth));
}

int fuzz(const FuzzArguments& a) {
  FuzzOptions options = options_of(a);
  std::optional<Corpus> corpus;
  if (!a.corpus.empty()) options.corpus = &corpus.emplace(a.corpus);
  if (a.tensors && a.corpus.empty()) throw UsageError("--tensors needs --corpus DIR: that is where they go");
  const std::string records = path_of_shard(a.records, options.shard);
  std::optional<RecordLog> log;
  if (!records.empty()) log.emplace(records);
  if (log && log->torn_bytes() > 0)
    fmt::print(stderr, "moecheck: {}: its last line was torn and is cut off\n", printable(records));
  const bool color = color_wanted(STDOUT_FILENO);
  ProgressLine progress(std::isfinite(options.seconds) ? fmt::format(" of {:.0f} s", options.seconds) : "");
  CampaignTally tally;
  std::int64_t cases = 0;
  options.on_record = [&](const Record& r) {
    tally.add(r);
    if (log) log->write(r);
  };
  options.on_finding = [&](const FuzzFinding& f) {
    progress.clear();
    print_finding(f, color);
  };
  options.on_mended = [&](const CorpusEntry& e, const Record& r) {
    progress.clear();
    fmt::print("{} now: {} {}, which failed at {}\n", name(r.result.verdict), r.implementation, e.c.str(),
               e.commit.empty() ? "an unknown commit" : printable(e.commit));
  };
  options.on_progress = [&](const FuzzProgress& p) {
    cases = p.cases;
    progress.show(p);
  };
  options.stop = [] { return stopped != 0; };
  ledger::Waivers waivers;
  if (!a.waivers.empty()) {
    waivers = ledger::read_waivers(a.waivers);
    options.amend = [&waivers, day = ledger::today()](Record& r) { waivers.apply(r, day); };
  }
  stop_on_signals();
  const auto start = std::chrono::steady_clock::now();
  const std::vector<FuzzFinding> findings = run_fuzz(options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  progress.clear();

  const std::string done =
      fmt::format("seed {}: {} in {:.1f} s, {:.0f} a second{}\n", a.seed, count(cases, "case"), seconds,
                  static_cast<double>(cases) / seconds, stopped != 0 ? ", interrupted" : "");
  if (options.shard.count > 1 && options.shard.source != "--shard") {
    // One of many: the table is for `moecheck merge`.
    fmt::print("shard {} of {} ({}), {}", options.shard.index, options.shard.count, options.shard.source,
               done);
  } else {
    fmt::print("{}{}", tally.text(), done);
    print_findings(findings);
  }
  if (log) fmt::print("records: {}\n", printable(records));
  return !findings.empty() ? kExitFailed : tally.ran() ? kExitFine : kExitNothingRan;
}

int merge(const std::vector<std::string>& files, const std::string& output) {
  const Merged merged = merge_records(files, output);
  for (const std::string& note : merged.notes) fmt::print(stderr, "moecheck: {}\n", note);
  fmt::print(
      "{}{} of {} in {}{}\n", merged.tally.text(), count(merged.lines, "record"),
      count(std::ssize(files), "file"), printable(output),
      merged.duplicates == 0 ? "" : fmt::format(", {} left out", count(merged.duplicates, "duplicate")));
  return merged.tally.failures() > 0 ? kExitFailed : merged.tally.ran() ? kExitFine : kExitNothingRan;
}

}  // namespace

void add_fuzz(CLI::App& app, Action& action) {
  auto a = std::make_shared<FuzzArguments>();
  CLI::App* sub =
      app.add_subcommand("fuzz", "Random cases against implementations; failures shrunk and kept");
  sub->add_option("operators", a->operators, "Operators (all)")->type_name("OPERATOR");
  sub->add_option("--impl", a->implementations, "Implementation, repeatable (all built in)")
      ->type_name("NAME")
      ->take_all();
  sub->add_option("--time", a->time, "How long: 90s, 10m, 2h (60s, unless --cases is given)")
      ->type_name("TIME");
  CLI::Option* cases =
      sub->add_option("--cases", a->cases, "How many cases, of all shards together")->type_name("N");
  sub->add_option("--seed", a->seed, "Another seed, other cases")->capture_default_str()->type_name("N");
  sub->add_option("--corpus", a->corpus, "Folder of failing cases: replayed first, new ones are added")
      ->type_name("DIR");
  sub->add_option("--waivers", a->waivers, "Known failures and their issues: what they cover is no finding")
      ->type_name("FILE.jsonl");
  sub->add_flag("--tensors", a->tensors, "Put the tensors of new failures into the corpus too");
  sub->add_option("--jobs", a->jobs,
                  "Worker processes (one per hardware thread; one in each rank of mpirun or srun)")
      ->check(CLI::Range(0, 1024));
  sub->add_option("--shard", a->shard,
                  "Part I of N of the campaign, I from 0 to N-1; ranks of mpirun and srun, and tasks of "
                  "Slurm arrays, know theirs")
      ->type_name("I/N");
  sub->add_option("--records", a->records,
                  "Append one JSON line per record; shards put their number into the name")
      ->type_name("FILE.jsonl");
  sub->add_option("--threads", a->threads, "Threads of each implementation")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  sub->add_option("--timeout", a->timeout, "Seconds per case")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  sub->add_flag("--no-shrink", a->no_shrink, "Do not search the smallest failing case");
  sub->add_flag("--no-relations", a->no_relations, "Do not check metamorphic relations");
  sub->callback([a, cases, &action] {
    a->has_cases = cases->count() > 0;
    action = [a] { return fuzz(*a); };
  });
}

void add_merge(CLI::App& app, Action& action) {
  struct Arguments {
    std::vector<std::string> files;
    std::string output;
  };
  auto a = std::make_shared<Arguments>();
  CLI::App* sub = app.add_subcommand("merge", "Join the records of shards, ranks or earlier runs");
  sub->add_option("records", a->files, "Record files")->required()->type_name("RECORDS.jsonl");
  sub->add_option("-o,--output", a->output, "The records together")->required()->type_name("FILE.jsonl");
  sub->callback([a, &action] { action = [a] { return merge(a->files, a->output); }; });
}

}  // namespace moecheck::harness
