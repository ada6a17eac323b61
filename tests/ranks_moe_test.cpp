// Expert parallelism and two-batch overlap: the same bits on any number of ranks and in any order of the stages; every planted bug is
// seen.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "harness/case.h"
#include "harness/ranks/mpi_ranks.h"
#include "harness/ranks/rank_study.h"
#include "harness/ranks/thread_ranks.h"

namespace moecheck::harness::ranks {
namespace {

using streams::TwoBatchPlan;

constexpr TwoBatchPlan kPlans[] = {TwoBatchPlan::kPrefill, TwoBatchPlan::kDecode, TwoBatchPlan::kDecodeBefore,
                                   TwoBatchPlan::kQwen3Decode};

LayersOptions small() {
  LayersOptions o;
  o.hidden = 16, o.intermediate = 8;
  return o;
}

TwoBatchOptions run_of(TwoBatchPlan plan, int delta, RankFault fault = RankFault::kNone) {
  return {plan, delta, true, fault, {}};
}

// ---- who has what

TEST(Ranks, EveryExpertHasOneOwner) {
  for (const int experts : {1, 5, 8, 160})
    for (const int ranks : {1, 2, 3, 4, 7, 16}) {
      EXPECT_EQ(first_expert(experts, ranks, 0), 0);
      EXPECT_EQ(first_expert(experts, ranks, ranks), experts);
      for (int e = 0; e < experts; ++e) {
        const int owner = owner_of_expert(experts, ranks, e);
        EXPECT_LE(first_expert(experts, ranks, owner), e);
        EXPECT_GT(first_expert(experts, ranks, owner + 1), e);
      }
    }
}

TEST(Ranks, DispatchSendsEverySlotToItsExpertsRank) {
  const std::vector<std::int32_t> ids{7, 0, -1, 3, 4, 0};  // of 8 experts on 2 ranks
  const DispatchPlan plan = plan_dispatch(ids, 8, 2);
  EXPECT_EQ(plan.counts, (std::vector<std::int64_t>{3, 2}));
  EXPECT_EQ(plan.slots, (std::vector<std::int64_t>{1, 3, 5, 0, 4}));
}

TEST(Ranks, SplitsHoldAllTokens) {
  for (const Split split : {Split::kEven, Split::kUneven, Split::kLast}) {
    LayersOptions o = small();
    o.split = split;
    for (const int ranks : {1, 3, 20}) {
      std::int64_t sum = 0;
      for (const std::int64_t n : split_tokens(o, 0, ranks)) sum += n;
      EXPECT_EQ(sum, o.tokens[0]);
    }
  }
}

// ---- the same bits

TEST(Ranks, SameBitsForEveryPlanDeltaAndNumberOfRanks) {
  const Layers layers(LayersOptions{});
  std::map<bool, Truth> truths;
  for (const bool shared : {false, true}) {
    truths[shared] = make_truth(layers, shared);
    EXPECT_TRUE(truths[shared].judged.ok()) << truths[shared].judged.where;
    EXPECT_GT(truths[shared].judged.elements, 0);
  }
  EXPECT_NE(truths[false].digest, truths[true].digest);
  for (const TwoBatchPlan plan : kPlans)
    for (int delta = 0; delta <= 3; ++delta)
      for (const int ranks : {1, 2, 4}) {
        const Truth& truth = truths[has_shared(plan)];
        const RankOutcome o = run_on_threads(ranks, layers, run_of(plan, delta), truth);
        EXPECT_TRUE(o.ok()) << streams::name(plan) << " delta " << delta << " ranks " << ranks << ": "
                            << o.failure();
        EXPECT_EQ(o.digest, truth.digest);
        // As measured by the communicator: decode at delta 2 is the one with a single transfer under way.
        EXPECT_EQ(o.outstanding, plan != TwoBatchPlan::kPrefill && delta == 2 ? 1 : 2);
      }
}

TEST(Ranks, SequentialOrderHasOneTransferUnderWay) {
  const Layers layers(small());
  const Truth truth = make_truth(layers, true);
  TwoBatchOptions options = run_of(TwoBatchPlan::kPrefill, 0);
  options.overlapped = false;
  const RankOutcome o = run_on_threads(3, layers, options, truth);
  EXPECT_TRUE(o.ok()) << o.failure();
  EXPECT_EQ(o.outstanding, 1);
}

TEST(Ranks, OneBufferIsEnoughForDecodeAtDeltaTwoAlone) {
  const Layers layers(small());
  const Truth truth = make_truth(layers, true);
  for (int delta = 0; delta <= 3; ++delta) {
    const RankOutcome o = run_on_threads(2, layers, run_of(TwoBatchPlan::kDecode, delta), truth, 1);
    EXPECT_EQ(o.ok(), delta == 2) << delta;
    EXPECT_EQ(o.failure().find("at most 1 at once") != std::string::npos, delta != 2) << o.failure();
  }
}

// Ranks without tokens, ranks without experts, experts nobody chose, batches without tokens.
RC_GTEST_PROP(Ranks, SameBitsForEverySize, ()) {
  LayersOptions o;
  o.layers = *rc::gen::inRange(1, 3);
  o.hidden = 8 * *rc::gen::inRange(1, 4), o.intermediate = 8 * *rc::gen::inRange(1, 3);
  o.experts = *rc::gen::inRange(1, 12);
  o.topk = *rc::gen::inRange<std::int64_t>(1, std::min<std::int64_t>(o.experts, 5) + 1);
  o.tokens = {*rc::gen::inRange(0, 9), *rc::gen::inRange(0, 9)};
  o.split = *rc::gen::element(Split::kEven, Split::kUneven, Split::kLast);
  o.seed = *rc::gen::inRange<std::uint64_t>(1, 1000);
  const int ranks = *rc::gen::inRange(1, 6);
  const TwoBatchPlan plan =
      *rc::gen::elementOf(std::vector<TwoBatchPlan>(std::begin(kPlans), std::end(kPlans)));
  const Layers layers(o);
  const Truth truth = make_truth(layers, has_shared(plan));
  RC_ASSERT(truth.judged.ok());
  const RankOutcome outcome = run_on_threads(ranks, layers, run_of(plan, *rc::gen::inRange(0, 4)), truth);
  RC_ASSERT(outcome.failure() == "");
}

TEST(Ranks, RefusesSizesThatDoNotGoTogether) {
  LayersOptions o;
  o.topk = 9;
  EXPECT_THROW(Layers{o}, UsageError);
}

// ---- what the checks see

// Of each planted bug: on how many ranks, in which plan and at which delta, and what is said.
struct Caught {
  RankFault fault;
  int ranks;
  TwoBatchPlan plan;
  int delta;
  Split split;
  const char* message;
};

TEST(Ranks, PlantedBugsAreCaught) {
  const Caught all[] = {
      {RankFault::kCombineInArrivalOrder, 2, TwoBatchPlan::kDecode, 2, Split::kEven, "instead of"},
      {RankFault::kScaledOnEachRank, 1, TwoBatchPlan::kDecode, 2, Split::kEven, "token 0, column 0"},
      {RankFault::kSharedOnEveryRank, 2, TwoBatchPlan::kDecode, 2, Split::kEven, "token 0, column 0"},
      {RankFault::kTokensOfOtherBatch, 2, TwoBatchPlan::kDecode, 0, Split::kEven, "instead of"},
      {RankFault::kBufferReusedEarly, 2, TwoBatchPlan::kPrefill, 0, Split::kEven, "instead of"},
      {RankFault::kRankZeroSwapsExperts, 2, TwoBatchPlan::kDecode, 2, Split::kEven, "instead of"},
      {RankFault::kMinusOneIsExpertZero, 4, TwoBatchPlan::kDecode, 2, Split::kEven, "instead of"},
      {RankFault::kNextLayerTooEarly, 2, TwoBatchPlan::kDecode, 2, Split::kEven, "ends the layer, but"},
      {RankFault::kNextLayerTooEarly, 2, TwoBatchPlan::kDecodeBefore, 2, Split::kEven, "ends the layer, but"},
      {RankFault::kDispatchSkippedWithoutTokens, 3, TwoBatchPlan::kDecode, 2, Split::kLast, "A0.dispatch"},
      {RankFault::kLastRankOtherOrder, 2, TwoBatchPlan::kDecode, 0, Split::kEven, "rank 1 at B0.dispatch"},
  };
  std::map<RankFault, int> seen;
  for (const Caught& c : all) {
    LayersOptions o;
    o.split = c.split;
    const Layers layers(o);
    const Truth truth = make_truth(layers, has_shared(c.plan));
    const RankOutcome sound = run_on_threads(c.ranks, layers, run_of(c.plan, c.delta), truth);
    EXPECT_TRUE(sound.ok()) << sound.failure();
    const RankOutcome o_faulty = run_on_threads(c.ranks, layers, run_of(c.plan, c.delta, c.fault), truth);
    EXPECT_NE(o_faulty.failure().find(c.message), std::string::npos)
        << name(c.fault) << ": '" << o_faulty.failure() << "'";
    ++seen[c.fault];
  }
  for (const RankFaultInfo& f : rank_faults()) EXPECT_EQ(seen.count(f.id), 1u) << f.name;
}

TEST(Ranks, FaultNamesAreFoundAndGuessed) {
  for (const RankFaultInfo& f : rank_faults()) EXPECT_EQ(require_rank_fault(std::string(f.name)), f.id);
  EXPECT_EQ(require_rank_fault("none"), RankFault::kNone);
  try {
    (void)require_rank_fault("scaled_on_each_rnak");
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("scaled_on_each_rank"), std::string::npos) << e.what();
  }
}

TEST(Ranks, TraceIsComparedOperationByOperation) {
  const Layers layers(small());
  const TwoBatchOptions options = run_of(TwoBatchPlan::kDecode, 2);
  TwoBatchRun run;
  const RankErrors errors = run_thread_ranks(1, [&](Communicator& c) {
    const auto compute = make_cpu_compute();
    run = run_two_batches(c, *compute, layers, load_weights(layers, *compute, 1, 0), options);
  });
  ASSERT_EQ(errors.first, -1) << errors.messages[0];
  EXPECT_EQ(trace_difference(run.trace, 2, options), "");
  std::vector<TraceEntry> missing = run.trace, swapped = run.trace, moved = run.trace;
  missing.pop_back();
  EXPECT_EQ(trace_difference(missing, 2, options),
            "batch B: operation 27 is nothing instead of B1.post in stage 10");
  std::swap(swapped[0], swapped[1]);  // within batch A
  EXPECT_EQ(trace_difference(swapped, 2, options),
            "batch A: operation 0 is A0.prepare in stage 0 instead of A0.prep_attn in stage 0");
  std::stable_sort(moved.begin(), moved.end(),
                   [](const auto& a, const auto& b) { return a.batch < b.batch; });
  EXPECT_NE(trace_difference(moved, 2, options).find("both batches: operation"), std::string::npos);
}

TEST(Ranks, LostOverlapIsAFailure) {
  RankOutcome o;
  o.outstanding = 1, o.planned = 2;
  EXPECT_EQ(o.failure(), "at most 1 transfers were under way at once instead of 2");
  o.planned = 1;
  EXPECT_TRUE(o.ok());
}

TEST(Ranks, ReferenceRejectsAChangedElement) {
  const Layers layers(small());
  std::vector<MoeRecord> records;
  TwoBatchOptions options = run_of(TwoBatchPlan::kDecode, 2);
  options.observe = [&](const MoeRecord& r) { records.push_back(r); };
  (void)run_thread_ranks(1, [&](Communicator& c) {
    const auto compute = make_cpu_compute();
    (void)run_two_batches(c, *compute, layers, load_weights(layers, *compute, 1, 0), options);
  });
  ASSERT_EQ(records.size(), 4u);
  EXPECT_TRUE(judge(layers, records).ok());
  MoeRecord& record = records[2];
  record.out[5] *= 1.25F;
  const Judged judged = judge(layers, records);
  EXPECT_FALSE(judged.ok());
  EXPECT_NE(judged.where.find("row 0, column 5"), std::string::npos) << judged.where;
  record.out[5] = std::nanf("");
  EXPECT_FALSE(judge(layers, records).ok());
}

// ---- from outside

struct Ran {
  int code = -1;
  std::string text;
};

Ran ran(const std::string& command) {
  Ran r;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  char chunk[4096];
  for (std::size_t n; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;) r.text.append(chunk, n);
  const int status = pclose(pipe);
  r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return r;
}

const std::string kCommand = MOECHECK_BINARY " streams ranks ";

TEST(RanksCommand, SaysEqualOrWhatDiffers) {
  const Ran fine = ran(kCommand + "--ranks 2 --plan decode --delta 2");
  EXPECT_EQ(fine.code, 0) << fine.text;
  EXPECT_NE(fine.text.find("1 run: the same bits as one rank"), std::string::npos) << fine.text;
  const Ran faulty = ran(kCommand + "--ranks 2 --plan decode --delta 2 --fault shared_on_every_rank");
  EXPECT_EQ(faulty.code, 1) << faulty.text;
  EXPECT_NE(faulty.text.find("DIFFER"), std::string::npos) << faulty.text;
  const Ran order = ran(kCommand + "--ranks 2 --plan decode --delta 2 --fault last_rank_other_order");
  EXPECT_EQ(order.code, 1) << order.text;
  EXPECT_NE(order.text.find("rank 1 at B0.dispatch"), std::string::npos) << order.text;
  EXPECT_EQ(ran(kCommand + "--delta 30").code, 2);
  EXPECT_EQ(ran(kCommand + "--topk 9").code, 2);
}

TEST(RanksCommand, MpiGivesTheSameBits) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "MPI's own threads are not compiled for ThreadSanitizer";
#endif
  if (!has_mpi()) GTEST_SKIP() << "this build has no MPI";
  if (ran("mpirun --version").code != 0) GTEST_SKIP() << "there is no mpirun";
  // Containers: as root, with more ranks than cores and other work on them, without the right to read each other's memory. MPI keeps
  // memory until its end.
  const std::string mpirun =
      "ASAN_OPTIONS=detect_leaks=0 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
      "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 "
      "OMPI_MCA_hwloc_base_binding_policy=none "
      "OMPI_MCA_btl_vader_single_copy_mechanism=none timeout 100 mpirun -n ";
  for (const char* ranks : {"2", "4"}) {
    const Ran fine = ran(mpirun + ranks + " " + kCommand +
                         "--communicator mpi --split uneven --plan prefill decode --delta 0 2");
    EXPECT_EQ(fine.code, 0) << fine.text;
    EXPECT_NE(fine.text.find("4 runs: the same bits as one rank"), std::string::npos) << fine.text;
  }
  const Ran faulty = ran(mpirun + "2 " + kCommand +
                         "--communicator mpi --plan decode --delta 2 --fault combine_in_arrival_order");
  EXPECT_NE(faulty.code, 0);
  EXPECT_NE(faulty.text.find("1 of 1 run not as on one rank"), std::string::npos) << faulty.text;
  const Ran order =
      ran(mpirun + "2 " + kCommand + "--communicator mpi --delta 2 --fault last_rank_other_order");
  EXPECT_NE(order.code, 0);
  EXPECT_NE(order.text.find("do not do the same"), std::string::npos) << order.text;
}

}  // namespace
}  // namespace moecheck::harness::ranks
