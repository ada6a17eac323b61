// moecheck streams ranks: expert parallelism and two-batch overlap, the same bits on any number of ranks and in any order.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/ranks/gpu_processes.h"
#include "harness/ranks/mpi_ranks.h"
#include "harness/ranks/rank_study.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using ranks::RankOutcome;
using ranks::Truth;
using ranks::TwoBatchOptions;
using streams::TwoBatchPlan;

struct RankArguments {
  std::vector<int> ranks, deltas{0, 1, 2, 3};
  std::vector<std::string> plans;
  std::string communicator = "threads", split = "even", fault = "none";
  int buffers = ranks::Communicator::kBuffers;
  std::vector<std::int64_t> tokens{13, 9};
  bool list_faults = false;
  ranks::LayersOptions layers;
};

constexpr TwoBatchPlan kPlans[] = {TwoBatchPlan::kPrefill, TwoBatchPlan::kDecode, TwoBatchPlan::kDecodeBefore,
                                   TwoBatchPlan::kQwen3Decode};

std::vector<TwoBatchOptions> runs_of(const RankArguments& a) {
  std::vector<TwoBatchOptions> runs;
  for (const TwoBatchPlan plan : kPlans) {
    if (!a.plans.empty() && std::find(a.plans.begin(), a.plans.end(), streams::name(plan)) == a.plans.end())
      continue;
    for (const int delta : a.deltas) {
      (void)streams::turns(static_cast<int>(streams::stages(plan, a.layers.layers).size()),
                           delta);  // may refuse
      runs.push_back({plan, delta, true, ranks::require_rank_fault(a.fault), {}});
    }
  }
  return runs;
}

// What the runs of one command are compared with: made once for each kind of layer.
class Truths {
 public:
  using Make = std::function<Truth(bool shared)>;
  explicit Truths(Make make) : make_(std::move(make)) {}
  const Truth& of(TwoBatchPlan plan) {
    std::optional<Truth>& truth = made_[ranks::has_shared(plan) ? 1 : 0];
    if (!truth) {
      truth = make_(ranks::has_shared(plan));
      fmt::print(
          "one rank, one batch after the other{}: digest {}, {} of MoE blocks at most {} of their bound{}\n",
          truth->shared ? "" : ", no shared experts", truth->digest, count(truth->judged.elements, "element"),
          ratio_text(truth->judged.worst), truth->judged.ok() ? "" : " (" + truth->judged.where + ")");
    }
    return *truth;
  }
  void make_for(const std::vector<TwoBatchOptions>& runs) {
    for (const TwoBatchOptions& run : runs) (void)of(run.plan);
  }
  bool ok() const {
    return std::all_of(std::begin(made_), std::end(made_),
                       [](const auto& t) { return !t || t->judged.ok(); });
  }

 private:
  Make make_;
  std::optional<Truth> made_[2];
};

// One line a run, and the exit code.
class Table {
 public:
  void print(const RankOutcome& o) {
    if (runs_++ == 0)
      fmt::print("{:<6} {:<14} {:<6} {:<12} {:<6} {:<6} {}\n", "ranks", "plan", "delta", "outstanding",
                 "trace", "bits", "digest");
    fmt::print("{:<6} {:<14} {:<6} {:<12} ", o.ranks, streams::name(o.options.plan), o.options.delta,
               o.error.empty() ? std::to_string(o.outstanding) : "-");
    if (o.ok()) {
      fmt::print("ok     equal  {}\n", o.digest);
      return;
    }
    ++wrong_;
    if (o.error.empty())
      fmt::print("{:<6} {:<6} {}\n", o.trace.empty() ? "ok" : "WRONG",
                 o.difference.empty() ? "equal" : "DIFFER", o.digest);
    else
      fmt::print("-      -      -\n");
    fmt::print("       {}\n", printable(o.failure()));
  }
  int finish(const Truths& truths) const {
    if (!truths.ok()) fmt::print("one rank alone is outside the reference's bounds\n");
    if (wrong_ == 0)
      fmt::print("{}: the same bits as one rank\n", count(runs_, "run"));
    else
      fmt::print("{} of {} not as on one rank\n", wrong_, count(runs_, "run"));
    return wrong_ == 0 && truths.ok() ? kExitFine : kExitFailed;
  }

 private:
  int runs_ = 0, wrong_ = 0;
};

void print_title(const RankArguments& a, std::string_view where) {
  const ranks::LayersOptions& o = a.layers;
  fmt::print("{} of {} experts, top {}, hidden {}, intermediate {}; batches of {} and {}, split {}; {}\n",
             count(o.layers, "layer"), o.experts, o.topk, o.hidden, o.intermediate,
             count(o.tokens[0], "token"), o.tokens[1], ranks::name(o.split), where);
}

int on_threads(const RankArguments& a) {
  const ranks::Layers layers(a.layers);
  print_title(a, "ranks are threads, CPU kernels");
  Truths truths([&](bool shared) { return ranks::make_truth(layers, shared); });
  truths.make_for(runs_of(a));
  Table table;
  for (const int n : a.ranks.empty() ? std::vector<int>{1, 2, 4} : a.ranks)
    for (const TwoBatchOptions& run : runs_of(a))
      table.print(ranks::run_on_threads(n, layers, run, truths.of(run.plan), a.buffers));
  return table.finish(truths);
}

// One rank of several processes: all do the same, rank 0 prints.
int on_processes(const RankArguments& a, ranks::Communicator& communicator, ranks::Compute& compute,
                 const std::string& where, Truths::Make make_truth) {
  if (!a.ranks.empty() && a.ranks != std::vector<int>{communicator.size()})
    throw UsageError(fmt::format("--ranks {}: there are {}, which is how many processes were started",
                                 a.ranks.front(), count(communicator.size(), "rank")));
  const ranks::Layers layers(a.layers);
  const ranks::RankWeights weights =
      ranks::load_weights(layers, compute, communicator.size(), communicator.rank());
  const bool prints = communicator.rank() == 0;
  if (prints) print_title(a, where);
  Truths truths(std::move(make_truth));
  if (prints) truths.make_for(runs_of(a));
  Table table;
  for (const TwoBatchOptions& run : runs_of(a)) {
    const Truth* truth = prints ? &truths.of(run.plan) : nullptr;
    const RankOutcome o = ranks::run_on_ranks(communicator, compute, layers, weights, run, truth);
    if (prints) table.print(o);
  }
  communicator.barrier("the end");
  return prints ? table.finish(truths) : kExitFine;
}

void print_rank_failure(int rank, int ranks, const std::exception& e) {
  std::fflush(stdout);
  fmt::print(stderr, "moecheck: rank {} of {}: {}\n", rank, ranks, printable(e.what()));
  std::fflush(stderr);
}

int on_mpi(const RankArguments& a) {
  const auto mpi = ranks::make_mpi_ranks(a.buffers);
  ranks::Communicator& communicator = mpi->communicator();
  try {
    const auto compute = ranks::make_cpu_compute();
    return on_processes(a, communicator, *compute, mpi->version() + ", CPU kernels",
                        [&](bool shared) { return ranks::make_truth(ranks::Layers(a.layers), shared); });
  } catch (const UsageError&) {  // all ranks refuse the same options: one says so
    if (communicator.rank() == 0) throw;
    return kExitUsage;
  } catch (const std::exception& e) {
    print_rank_failure(communicator.rank(), communicator.size(), e);
    mpi->abort(kExitFailed);
    return kExitFailed;
  }
}

int on_nccl(const RankArguments& a) {
  if (a.ranks.size() > 1)
    throw UsageError("--communicator nccl: give one number of --ranks, one GPU for each");
  const std::optional<ranks::GpuRank> me = ranks::this_gpu_rank();
  const ranks::Layers layers(a.layers);
  if (!me) {
    (void)runs_of(a);  // what is wrong with the options is said once
    return ranks::start_gpu_ranks(a.ranks.empty() ? 2 : a.ranks.front());
  }
  try {
    const ranks::GpuRankParts parts = ranks::join_gpu_ranks(*me, a.buffers);
    ranks::Compute& compute = *parts.device.compute;
    return on_processes(a, *parts.communicator, compute, parts.description, [&](bool shared) {
      return ranks::make_truth(*parts.alone, compute, layers, shared);
    });
  } catch (const std::exception& e) {  // whoever started the ranks ends the others
    print_rank_failure(me->rank, me->ranks, e);
    return dynamic_cast<const UsageError*>(&e) != nullptr ? kExitUsage : kExitFailed;
  }
}

int list_faults() {
  for (const ranks::RankFaultInfo& f : ranks::rank_faults())
    fmt::print("{:<32} {}{}\n", f.name, f.what, f.upstream.empty() ? "" : fmt::format(" ({})", f.upstream));
  return kExitFine;
}

int study(RankArguments& a) {
  if (a.list_faults) return list_faults();
  a.layers.tokens = {a.tokens.front(), a.tokens.back()};
  for (const ranks::Split s : {ranks::Split::kEven, ranks::Split::kUneven, ranks::Split::kLast})
    if (ranks::name(s) == a.split) a.layers.split = s;
  if (a.communicator == "mpi") return on_mpi(a);
  if (a.communicator == "nccl") return on_nccl(a);
  return on_threads(a);
}

}  // namespace

void add_streams_ranks(CLI::App& streams_verb, Action& action) {
  CLI::App* sub = streams_verb.add_subcommand(
      "ranks",
      "Run two batches with expert parallelism: the same bits on any number of ranks, in any order?");
  auto a = std::make_shared<RankArguments>();
  ranks::LayersOptions& o = a->layers;
  const auto size = [&](const char* option, std::int64_t& value, const char* what, std::int64_t most) {
    sub->add_option(option, value, what)->check(CLI::Range(std::int64_t{1}, most))->capture_default_str();
  };
  sub->add_option("--ranks", a->ranks,
                  "Numbers of ranks; else 1 2 4, with mpi what mpirun starts, with nccl 2")
      ->check(CLI::Range(1, 64));
  sub->add_option("--communicator", a->communicator,
                  "threads; mpi (under mpirun); nccl (starts one process for each GPU)")
      ->check(CLI::IsMember({"threads", "mpi", "nccl"}))
      ->capture_default_str();
  sub->add_option("--plan", a->plans, "prefill, decode, decode_before, qwen3_decode; else all")
      ->check(CLI::IsMember({"prefill", "decode", "decode_before", "qwen3_decode"}));
  sub->add_option("--delta", a->deltas, "Stages that batch A is ahead")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  sub->add_option("--layers", o.layers, "Layers")->check(CLI::Range(1, 1000))->capture_default_str();
  sub->add_option("--tokens", a->tokens, "Tokens of batch A and of batch B, over all ranks")
      ->expected(1, 2)
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  sub->add_option("--split", a->split,
                  "Who has the tokens: even, uneven (at random), last (the last rank all)")
      ->check(CLI::IsMember({"even", "uneven", "last"}))
      ->capture_default_str();
  size("--experts", o.experts, "Experts, spread over the ranks", 8192);
  size("--topk", o.topk, "Experts of a token", 32);
  size("--hidden", o.hidden, "Columns of a row", 1 << 16);
  size("--intermediate", o.intermediate, "Of an expert", 1 << 16);
  sub->add_option("--seed", o.seed, "Of weights, tokens and splits")->capture_default_str();
  sub->add_option("--buffers", a->buffers,
                  "Transfers that may be under way at once, as in DeepEP's low-latency mode")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  sub->add_option("--fault", a->fault, "A planted bug, to see it caught")->type_name("NAME");
  sub->add_flag("--list-faults", a->list_faults, "The planted bugs, and what they stand for");
  sub->callback([a, &action] { action = [a] { return study(*a); }; });
}

}  // namespace moecheck::harness
