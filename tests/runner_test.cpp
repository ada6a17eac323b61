// The runner: every common clause is broken once and noticed; crashes and hangs cost one case; failures shrink.
#include "harness/runner.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "altered_implementation.h"
#include "harness/relation.h"
#include "harness/shrink.h"
#include "harness/workers.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace moecheck::harness {
namespace {

// Most tests need nothing of the case but an output to alter.
Record check_default(Altered::After after) {
  return check_altered("gating tokens=4 experts=16 topk=2", std::move(after));
}

void expect_broken(const Record& r, std::string_view name) {
  EXPECT_EQ(r.result.verdict, Verdict::kFail) << r.result.reason;
  ASSERT_NE(find_clause(r, name), nullptr) << name;
  EXPECT_EQ(find_clause(r, name)->verdict, Verdict::kFail) << name;
}

TEST(Runner, TheReferencePasses) {
  const Record r = check_default([](auto&&...) {});
  EXPECT_EQ(r.result.verdict, Verdict::kPass) << r.result.reason;
  for (const ClauseResult& c : r.result.clauses)
    EXPECT_NE(c.verdict, Verdict::kFail) << c.name << ": " << c.detail;
  EXPECT_GT(r.result.elements, 0);
}

TEST(Runner, WritingBehindAnOutputIsSeen) {
  expect_broken(check_default([](const Case&, const TensorSet&, TensorSet& out, const RunOptions&) {
                  Tensor& t = out.at("topk_ids");
                  t.data()[t.bytes()] = std::byte{0};
                }),
                "writes_inside_outputs");
}

TEST(Runner, WritingBeforeAnOutputIsSeen) {
  expect_broken(check_default([](const Case&, const TensorSet&, TensorSet& out, const RunOptions&) {
                  *(out.at("topk_weights").data() - 4) = std::byte{0};
                }),
                "writes_inside_outputs");
}

TEST(Runner, ChangingAnInputIsSeen) {
  expect_broken(check_default([](const Case&, const TensorSet& in, TensorSet&, const RunOptions&) {
                  const_cast<TensorSet&>(in).at("router_logits").data()[0] ^= std::byte{1};
                }),
                "inputs_unchanged");
}

TEST(Runner, AnElementNobodyWritesIsSeen) {
  // It keeps the first poison, which reads as NaN and fails by itself; with a value that happens to be right only the second
  // run shows it: keep the reference's bytes in the first run, leave the poison in the second.
  int runs = 0;
  expect_broken(check_default([&runs](const Case&, const TensorSet&, TensorSet& out, const RunOptions&) {
                  if (runs++ > 0) std::memset(out.at("topk_weights").data(), 0x5A, 4);
                }),
                "deterministic");
}

// Leaves padded rows of topk_ids as it finds them.
class SkipsPadding final : public Implementation {
 public:
  std::string_view name() const override { return "skips-padding"; }
  std::string_view summary() const override { return "writes rows of tokens alone"; }
  std::optional<std::string> unsupported(const Case&) const override { return std::nullopt; }
  void run(const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) const override {
    const TensorSet before = out;
    const Operator& op = operator_of(c);
    op.reference_outputs(c, in, *op.reference(c, in), out);
    const std::size_t row = static_cast<std::size_t>(c.integer("topk")) * 4;
    Tensor& ids = out.at("topk_ids");
    std::memcpy(ids.data() + ids.bytes() - row, before.at("topk_ids").data() + ids.bytes() - row, row);
  }
};

// The first poison reads as -1, which is what padded rows must hold: only another poison shows that nobody wrote them.
TEST(Runner, PoisonThatHappensToBeRightIsSeen) {
  const SkipsPadding skips;
  const Implementation* one[] = {&skips};
  expect_broken(
      check_case(parse_case("gating tokens=3 padded=1 experts=32 topk=4 policy=sglang_fused"), one, {})
          .front(),
      "deterministic");
}

TEST(Runner, ChangingAnyInputIsSeen) {
  expect_broken(check_default([](const Case&, const TensorSet& in, TensorSet&, const RunOptions&) {
                  const_cast<TensorSet&>(in).tensors().back().data()[1] ^= std::byte{1};
                }),
                "inputs_unchanged");
}

// What relations compare rows by.
TEST(Runner, RowsAreEqualToTheirLastByte) {
  TensorSet a({{"out", DType::kF32, Shape(3, 4), ""}}), b = a;
  EXPECT_NO_THROW(Trial::require_rows_equal(a, 0, 3, b, 0, "out"));
  b.view("out").set(7, 1);
  EXPECT_NO_THROW(Trial::require_rows_equal(a, 2, 3, b, 2, "out"));
  EXPECT_THROW(Trial::require_rows_equal(a, 1, 2, b, 1, "out"), Broken);
  EXPECT_THROW(Trial::require_rows_equal(a, 2, 3, b, 1, "out"), Broken);
}

TEST(Runner, DependingOnThreadsIsSeen) {
  expect_broken(check_default([](const Case&, const TensorSet&, TensorSet& out, const RunOptions& o) {
                  if (o.threads > 1) out.at("topk_weights").data()[0] ^= std::byte{1};
                }),
                "thread_independent");
}

TEST(Runner, DependingOnAddressesIsSeen) {
  expect_broken(check_default([](const Case&, const TensorSet& in, TensorSet& out, const RunOptions&) {
                  if (reinterpret_cast<std::uintptr_t>(in.at("router_logits").data()) % 256 != 0)
                    out.at("topk_weights").data()[0] ^= std::byte{1};
                }),
                "address_independent");
}

#if defined(__SSE2__)
TEST(Runner, LeavingFlushToZeroOnIsSeenAndUndone) {
  const unsigned before = _mm_getcsr() & ~0x3Fu;
  expect_broken(check_default([](auto&&...) { _mm_setcsr(_mm_getcsr() | 0x8040); }),
                "float_environment_kept");
  EXPECT_EQ(_mm_getcsr() & ~0x3Fu, before);
}
#endif

TEST(Runner, AnExceptionIsAFailure) {
  const Record r = check_default([](auto&&...) { throw std::runtime_error("no such kernel"); });
  EXPECT_EQ(r.result.verdict, Verdict::kFail);
  EXPECT_NE(r.result.reason.find("no such kernel"), std::string::npos);
}

class WritesNothing final : public Implementation {
 public:
  std::string_view name() const override { return "writes-nothing"; }
  std::string_view summary() const override { return "leaves its outputs as they come"; }
  std::optional<std::string> unsupported(const Case&) const override { return std::nullopt; }
  void run(const Case&, const TensorSet&, TensorSet&, const RunOptions&) const override {}
};

TEST(Runner, OutputsUpdatedInPlaceStartAsTheirInput) {
  const WritesNothing impl;
  const Implementation* one[] = {&impl};
  // Without tokens the cache must stay as it is; with tokens it must not.
  CheckOptions alone;
  alone.relations = false;  // they add tokens
  EXPECT_EQ(check_case(parse_case("indexer_cache tokens=0"), one, alone).front().result.verdict, Verdict::kPass);
  const Record r = check_case(parse_case("indexer_cache tokens=4"), one, {}).front();
  EXPECT_EQ(r.result.verdict, Verdict::kFail);
  EXPECT_EQ(r.result.cause, "nothing was written");
}

TEST(Runner, RefusedCasesAreSkippedWithTheReason) {
  const Record r = check_altered("gating policy=sglang_fused experts=160", [](auto&&...) {});
  EXPECT_EQ(r.result.verdict, Verdict::kSkip);
  EXPECT_NE(r.result.reason.find("160"), std::string::npos) << r.result.reason;
}

CampaignOptions two_jobs() {
  CampaignOptions o;
  o.jobs = 2;
  o.check.relations = false;
  return o;
}

TEST(Campaign, ACrashCostsOneCase) {
  const Altered impl([](const Case& c, auto&&...) {
    if (c.integer("tokens") == 3) __builtin_trap();
  });
  const Implementation* one[] = {&impl};
  std::vector<Case> cases;
  for (int t = 1; t <= 6; ++t)
    cases.push_back(parse_case("gating experts=16 topk=2 tokens=" + std::to_string(t)));
  const std::vector<Record> records = run_campaign(cases, one, two_jobs());
  ASSERT_EQ(records.size(), 6u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(records[i].case_line, cases[i].str()) << "records come in the order of cases";
    EXPECT_EQ(records[i].result.verdict, i == 2 ? Verdict::kCrash : Verdict::kPass)
        << records[i].result.reason;
  }
}

TEST(Campaign, AHangIsATimeout) {
  const Altered impl([](const Case& c, auto&&...) {
    while (c.integer("tokens") == 2) usleep(1000);
  });
  const Implementation* one[] = {&impl};
  CampaignOptions o = two_jobs();
  o.timeout_seconds = 2;
  const std::vector<Record> records = run_campaign(
      {parse_case("gating experts=16 topk=2 tokens=2"), parse_case("gating experts=16 topk=2 tokens=1")}, one,
      o);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].result.verdict, Verdict::kTimeout);
  EXPECT_EQ(records[1].result.verdict, Verdict::kPass);
}

TEST(Campaign, JobsDoNotChangeRecords) {
  const Altered impl([](const Case&, const TensorSet&, TensorSet& out, const RunOptions&) {
    out.view("topk_weights").set(0, 7);
  });
  const Implementation* one[] = {&impl};
  std::vector<Case> cases;
  for (int s = 1; s <= 8; ++s)
    cases.push_back(parse_case("gating experts=16 topk=2 seed=" + std::to_string(s)));
  CampaignOptions o = two_jobs();
  o.shrink = false;
  const auto lines = [&](int jobs) {
    o.jobs = jobs;
    std::string text;
    for (const Record& r : run_campaign(cases, one, o))
      text += r.case_line + std::string(name(r.result.verdict)) + r.result.reason + "\n";
    return text;
  };
  EXPECT_EQ(lines(1), lines(3));
}

TEST(Shrink, FindsTheSmallestCaseThatStillFails) {
  const Case big = parse_case(
      "gating model=deepseek-v3 policy=sglang_fused tokens=64 dtype=bf16 bias=bf16 data=ties edit=nan:9:3 "
      "edit=tie:5:1");
  int asked = 0;
  const ShrinkResult r = shrink(big, [&](const Case& c) {
    ++asked;
    return c.integer("topk") >= 2 && c.integer("tokens") >= 3 && !c.edits.empty() &&
           c.edits.back().kind == "tie";
  });
  EXPECT_EQ(r.smallest.integer("topk"), 2);
  EXPECT_EQ(r.smallest.integer("tokens"), 3);
  EXPECT_EQ(r.smallest.integer("groups"), 1);
  EXPECT_LE(r.smallest.integer("experts"), 4);
  EXPECT_EQ(r.smallest.edits.size(), 1u);
  EXPECT_EQ(r.smallest.edits[0].row, 0);
  EXPECT_EQ(r.smallest.model(), "");
  EXPECT_EQ(r.tried, asked);
  EXPECT_LT(r.seconds, 4);
}

TEST(Workers, EveryItemOnceAndInOrder) {
  std::vector<std::string> got;
  WorkerCallbacks callbacks;
  callbacks.work = [](std::size_t i) { return std::string(i * 1000, 'x') + std::to_string(i); };
  callbacks.done = [&](std::size_t i, std::string text) {
    EXPECT_EQ(i, got.size());
    got.push_back(std::move(text));
  };
  callbacks.lost = [](std::size_t i, std::string how, bool) { ADD_FAILURE() << i << how; };
  run_in_workers(100, {3, 60}, callbacks);
  ASSERT_EQ(got.size(), 100u);
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i], std::string(i * 1000, 'x') + std::to_string(i));
}

}  // namespace
}  // namespace moecheck::harness
