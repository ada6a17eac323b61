// The judge and the relations of gating reject what they exist for, and accept what is right.
#include "harness/operators/gating.h"

#include <gtest/gtest.h>

#include <cmath>

#include "altered_implementation.h"

namespace moecheck::harness {
namespace {

const std::string kLine = "gating tokens=4 experts=32 groups=4 topk_group=2 topk=4 policy=vllm_torch";

// Exchanges two slots of a row, ids and weights.
void swap_slots(TensorSet& out, std::int64_t a, std::int64_t b) {
  const View ids = out.view("topk_ids"), w = out.view("topk_weights");
  const auto ia = load_int(ids.dtype, ids.data, a), ib = load_int(ids.dtype, ids.data, b);
  const double wa = w.at(a), wb = w.at(b);
  ids.set_int(a, ib), ids.set_int(b, ia);
  w.set(a, wb), w.set(b, wa);
}

// The smallest change of a weight that the comparison lets through.
void flip_last_bit(TensorSet& out, std::int64_t row, std::int64_t slots = 4) {
  out.at("topk_weights").data()[row * slots * 4] ^= std::byte{1};
}

// By the comparison alone: an alteration of one row breaks relations too, whatever the judge says.
constexpr CheckOptions kComparison{.clauses = false, .relations = false};
Verdict verdict(const std::string& line, Altered::After after) {
  return check_altered(line, std::move(after), kComparison).result.verdict;
}

TEST(GatingJudge, AcceptsTheReference) {
  EXPECT_EQ(verdict(kLine, [](auto&&...) {}), Verdict::kPass);
}

struct WrongIds {
  const char* what;
  void (*change)(TensorSet& out);
};

class GatingJudgeRejects : public testing::TestWithParam<WrongIds> {};

TEST_P(GatingJudgeRejects, It) {
  const Record r = check_altered(
      kLine, [](const Case&, const TensorSet&, TensorSet& out, const RunOptions&) { GetParam().change(out); },
      kComparison);
  EXPECT_EQ(r.result.verdict, Verdict::kFail) << GetParam().what;
  ASSERT_TRUE(r.result.worst);
  EXPECT_FALSE(r.result.reason.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Gating, GatingJudgeRejects,
    testing::Values(
        WrongIds{"an id past the last expert", [](TensorSet& o) { o.view("topk_ids").set_int(1, 32); }},
        WrongIds{"an id of -1 in a row that is no padding",
                 [](TensorSet& o) { o.view("topk_ids").set_int(1, -1); }},
        WrongIds{
            "an expert selected twice",
            [](TensorSet& o) {
              o.view("topk_ids").set_int(1, load_int(o.at("topk_ids").dtype(), o.at("topk_ids").data(), 0));
            }},
        WrongIds{"weights paired with other experts",
                 [](TensorSet& o) {
                   const double a = o.view("topk_weights").at(0), b = o.view("topk_weights").at(3);
                   o.view("topk_weights").set(0, b), o.view("topk_weights").set(3, a);
                 }},
        WrongIds{"a weight half a percent off",
                 [](TensorSet& o) { o.view("topk_weights").set(0, o.view("topk_weights").at(0) * 1.005); }},
        WrongIds{"a weight 64 ulp off",
                 [](TensorSet& o) {
                   o.view("topk_weights").set(0, o.view("topk_weights").at(0) * (1 + 0x1p-17));
                 }},
        WrongIds{"NaN", [](TensorSet& o) { o.view("topk_weights").set(0, std::nan("")); }},
        WrongIds{"rows exchanged", [](TensorSet& o) {
                   for (int k = 0; k < 4; ++k) swap_slots(o, k, 4 + k);
                 }}));

TEST(GatingJudge, AnExpertOfAGroupThatIsNotSelectedFails) {
  // The lowest expert of the worst group takes the last slot.
  const Record r =
      check_altered(kLine, [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
        const auto e = gating_expected(gating_options(c), in);
        std::int64_t worst = 0;
        for (std::int64_t g = 1; g < 4; ++g)
          if (e->gating.group_order(e->rows[0], worst, g) == reference::Order::kBefore) worst = g;
        std::vector<std::int64_t> ids = e->selections[0];
        ids[3] = worst * 8;
        std::vector<reference::Bounded> w;
        e->gating.weights(e->rows[0], ids, w);
        for (std::size_t k = 0; k < 4; ++k) {
          out.view("topk_ids").set_int(static_cast<std::int64_t>(k), ids[k]);
          out.view("topk_weights").set(static_cast<std::int64_t>(k), w[k].value);
        }
      });
  EXPECT_EQ(r.result.verdict, Verdict::kFail);
  EXPECT_NE(r.result.reason.find("group"), std::string::npos) << r.result.reason;
}

// logits [1, 4]: experts 1 and 2 are the candidates for the second slot.
TensorSet row_of(double second, double third) {
  const Case c = parse_case("gating tokens=1 experts=4 topk=2 bias=none policy=vllm_torch");
  TensorSet in(operator_of(c).inputs(c));
  const double logits[] = {3, second, third, -3};
  for (int e = 0; e < 4; ++e) in.view("router_logits").set(e, logits[e]);
  return in;
}

Judgement judged_choice(double second, double third, std::int64_t chosen, const std::string& policy) {
  const Case c = parse_case("gating tokens=1 experts=4 topk=2 bias=none policy=" + policy);
  const TensorSet in = row_of(second, third);
  const auto e = gating_expected(gating_options(c), in);
  TensorSet out(operator_of(c).outputs(c));
  const std::vector<std::int64_t> ids = {0, chosen};
  std::vector<reference::Bounded> w;
  e->gating.weights(e->rows[0], ids, w);
  for (std::size_t k = 0; k < 2; ++k) {
    out.view("topk_ids").set_int(static_cast<std::int64_t>(k), ids[k]);
    out.view("topk_weights").set(static_cast<std::int64_t>(k), w[k].value);
  }
  Judgement j;
  judge_gating(in, *e, out, j);
  return j;
}

TEST(GatingJudge, ANearTieIsUndecidedAndAnythingWiderFails) {
  const double near = std::nextafter(1.0f, 2.0f);
  EXPECT_EQ(judged_choice(1, near, 2, "vllm_torch").verdict, Verdict::kPass);
  EXPECT_EQ(judged_choice(1, near, 1, "vllm_torch").verdict, Verdict::kUndecided);
  EXPECT_EQ(judged_choice(1, 1.001, 1, "vllm_torch").verdict, Verdict::kFail);
}

TEST(GatingJudge, AnExactTieFollowsThePolicysRule) {
  EXPECT_EQ(judged_choice(1, 1, 1, "vllm_cuda expert_tie=low").verdict, Verdict::kPass);
  EXPECT_EQ(judged_choice(1, 1, 2, "vllm_cuda expert_tie=low").verdict, Verdict::kFail);
  EXPECT_EQ(judged_choice(1, 1, 2, "vllm_cuda expert_tie=high").verdict, Verdict::kPass);
  EXPECT_FALSE(is_failure(judged_choice(1, 1, 2, "vllm_cuda expert_tie=any").verdict));
}

TEST(GatingJudge, SharedSlotsAndPaddingAreChecked) {
  const std::string shared = "gating tokens=3 experts=32 topk=4 shared_slots=1 policy=sglang_fused";
  EXPECT_EQ(verdict(shared, [](auto&&...) {}), Verdict::kPass);
  EXPECT_EQ(verdict(shared, [](const Case&, const TensorSet&, TensorSet& o,
                               const RunOptions&) { o.view("topk_ids").set_int(4, 31); }),
            Verdict::kFail);
  // vllm#44313: the shared slot scaled as the routed ones.
  EXPECT_EQ(verdict(shared, [](const Case&, const TensorSet&, TensorSet& o,
                               const RunOptions&) { o.view("topk_weights").set(4, 1); }),
            Verdict::kFail);
  const std::string padded = "gating tokens=3 padded=1 experts=32 topk=4 policy=sglang_fused";
  EXPECT_EQ(verdict(padded, [](auto&&...) {}), Verdict::kPass);
  EXPECT_EQ(verdict(padded, [](const Case&, const TensorSet&, TensorSet& o,
                               const RunOptions&) { o.view("topk_ids").set_int(8, 5); }),
            Verdict::kFail);
}

// Weights are those of the slot's expert, wherever it stands: vllm#48895 is the reverse.
TEST(GatingJudge, SlotsMayComeInAnyOrderOnlyWhereThePolicySaysSo) {
  const auto swapped = [](const Case&, const TensorSet&, TensorSet& o, const RunOptions&) {
    swap_slots(o, 0, 1);
  };
  EXPECT_EQ(verdict("gating tokens=2 experts=32 topk=4 policy=sglang_fused", swapped), Verdict::kFail);
  EXPECT_EQ(verdict("gating tokens=2 experts=32 topk=4 policy=vllm_torch", swapped), Verdict::kPass);
}

// The best expert in the slot of the last one: no other expert ranks before those that are left (vllm#39391).
TEST(GatingJudge, TheBestExpertTwiceIsNotRight) {
  const Record r = check_altered(
      "gating tokens=1 experts=8 topk=2 renormalize=0 policy=hf_deepseek_v3",
      [](const Case&, const TensorSet&, TensorSet& o, const RunOptions&) {
        const View ids = o.view("topk_ids");
        ids.set_int(1, load_int(ids.dtype, ids.data, 0));
        o.view("topk_weights").set(1, o.view("topk_weights").at(0));
      },
      kComparison);
  EXPECT_EQ(r.result.verdict, Verdict::kFail);
  EXPECT_NE(r.result.reason.find("selected twice"), std::string::npos) << r.result.reason;
}

TEST(GatingJudge, NamesTheLikelyCause) {
  const Record r = check_altered("gating tokens=3 experts=32 topk=4 policy=vllm_torch",
                                 [](const Case&, const TensorSet&, TensorSet& o, const RunOptions&) {
                                   for (int i = 0; i < 12; ++i)
                                     o.view("topk_weights").set(i, o.view("topk_weights").at(i) / 2.5);
                                 });
  EXPECT_EQ(r.result.cause, "routed_scaling_factor is not applied to the weights");
}

struct BrokenRelation {
  const char* relation;
  const char* line;
  Altered::After break_it;
};

class GatingRelations : public testing::TestWithParam<BrokenRelation> {};

TEST_P(GatingRelations, IsKeptByTheReferenceAndCanBreak) {
  const BrokenRelation& p = GetParam();
  const Record right = check_altered(p.line, [](auto&&...) {});
  ASSERT_NE(find_clause(right, p.relation), nullptr);
  EXPECT_EQ(find_clause(right, p.relation)->verdict, Verdict::kPass)
      << find_clause(right, p.relation)->detail;
  const Record wrong = check_altered(p.line, p.break_it);
  EXPECT_EQ(wrong.result.failed, 0) << "the comparison itself must not see it: " << wrong.result.reason;
  EXPECT_EQ(wrong.result.verdict, Verdict::kFail);
  EXPECT_EQ(find_clause(wrong, p.relation)->verdict, Verdict::kFail);
}

const char* const kPlain = "gating tokens=4 experts=32 topk=4 policy=vllm_torch";
double first_logit(const TensorSet& in, std::int64_t row) { return in.view("router_logits").at(row, 0); }

INSTANTIATE_TEST_SUITE_P(
    Gating, GatingRelations,
    testing::Values(BrokenRelation{"token_permutation", kPlain,
                                   [](const Case& c, const TensorSet&, TensorSet& o, const RunOptions&) {
                                     if (c.integer("tokens") == 4) flip_last_bit(o, 1);
                                   }},
                    BrokenRelation{"batch_split", kPlain,
                                   [](const Case& c, const TensorSet&, TensorSet& o, const RunOptions&) {
                                     if (c.integer("tokens") == 1) flip_last_bit(o, 0);
                                   }},
                    BrokenRelation{"batch_growth", kPlain,
                                   [](const Case& c, const TensorSet&, TensorSet& o, const RunOptions&) {
                                     if (c.integer("tokens") > 512) flip_last_bit(o, 7);
                                   }},
                    BrokenRelation{"duplicate_token", kPlain,
                                   [](const Case& c, const TensorSet& in, TensorSet& o, const RunOptions&) {
                                     if (c.integer("tokens") == 4 && first_logit(in, 0) == first_logit(in, 3))
                                       flip_last_bit(o, 3);
                                   }},
                    BrokenRelation{"padding_independence",
                                   "gating tokens=4 padded=2 experts=32 topk=4 policy=sglang_fused bias=f32",
                                   [](const Case&, const TensorSet& in, TensorSet& o, const RunOptions&) {
                                     if (std::isnan(first_logit(in, 3))) flip_last_bit(o, 0);
                                   }},
                    BrokenRelation{"expert_permutation", kPlain,
                                   [](const Case& c, const TensorSet& in, TensorSet& o, const RunOptions&) {
                                     TensorSet own(operator_of(c).inputs(c));
                                     operator_of(c).generate(c, own);
                                     const double moved = std::as_const(own).view("router_logits").at(0, 31);
                                     if (c.integer("tokens") == 4 && first_logit(in, 0) == moved)
                                       o.view("topk_weights").set(0, 7);
                                   }},
                    BrokenRelation{"dead_expert", kPlain,
                                   [](const Case&, const TensorSet& in, TensorSet& o, const RunOptions&) {
                                     for (int e = 0; e < 32; ++e)
                                       if (in.view("router_logits").at(0, e) < -8) {
                                         flip_last_bit(o, 0);
                                         return;
                                       }
                                   }},
                    BrokenRelation{"scale_applied_once", kPlain,
                                   [](const Case& c, const TensorSet&, TensorSet& o, const RunOptions&) {
                                     if (c.real("rsf") == 5) flip_last_bit(o, 0);
                                   }}),
    [](const auto& test) { return std::string(test.param.relation); });

}  // namespace
}  // namespace moecheck::harness
