// Contracts of routed_scaling, shared_experts, moe_align, experts and moe_block: their cases, data, judges and explanations.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "tests/operators_support.h"

namespace moecheck::harness {
namespace {

constexpr Suite kAllSuites[] = {Suite::kQuick, Suite::kModels, Suite::kAdversarial, Suite::kFull};
constexpr Suite kSmallSuites[] = {Suite::kQuick, Suite::kAdversarial};

template <class Visit>
void each_case(std::span<const Suite> suites, Visit visit) {
  for (const Operator* op : expert_operators())
    for (const Suite suite : suites)
      for (const Case& c : op->cases(suite)) visit(*op, c);
}

bool has_float_output(const Case& c) {
  return c.schema().name == "routed_scaling" || c.schema().name == "experts" ||
         c.schema().name == "moe_block";
}

TEST(ExpertOperators, CasesPrintAndParseBack) {
  each_case(kAllSuites, [](const Operator& op, const Case& c) {
    ASSERT_TRUE(parse_case(c.str()) == c) << c.str();
    ASSERT_EQ(op.refusal(c), std::nullopt) << c.str();
  });
}

TEST(ExpertOperators, SuitesRepeatNothingAndUseEveryPolicyAndKindOfData) {
  for (const Operator* op : expert_operators()) {
    std::set<std::string> policies, kinds;
    for (const Suite suite : kAllSuites) {
      std::set<std::string> lines;
      for (const Case& c : op->cases(suite)) {
        EXPECT_TRUE(lines.insert(c.str()).second) << c.str();
        policies.insert(c.policy());
        kinds.emplace(c.choice("data"));
      }
      EXPECT_FALSE(lines.empty()) << op->name();
    }
    for (const Preset& p : op->schema().policies)
      EXPECT_TRUE(policies.contains(p.name)) << op->name() << " " << p.name;
    for (const std::string& kind : op->schema().fields[at(op->schema().find("data"))].choices)
      EXPECT_TRUE(kinds.contains(kind)) << op->name() << " " << kind;
  }
}

TEST(ExpertOperators, PoliciesNameFieldsOfTheSchema) {
  for (const Operator* op : expert_operators())
    for (const Preset& p : op->schema().policies) {
      for (const auto& [field, value] : p.values)
        EXPECT_GE(op->schema().find(field), 0) << op->name() << " " << p.name << " " << field;
      EXPECT_EQ(op->refusal(Case(op->schema()).set("policy", p.name)).value_or(""),
                p.name == "sglang_kimi" ? "x" : "")
          << p.name;
    }
}

TEST(ExpertOperators, SpecsAreConsistent) {
  each_case(kSmallSuites, [](const Operator& op, const Case& c) {
    std::set<std::string> names;
    for (const auto& specs : {op.inputs(c), op.outputs(c)})
      for (const TensorSpec& s : specs) {
        ASSERT_TRUE(names.insert(s.name).second) << c.str() << " " << s.name;
        ASSERT_FALSE(s.doc.empty()) << s.name;
        ASSERT_GE(s.shape.numel(), 0) << c.str() << " " << s.name;
      }
  });
}

// Data depend on the case alone: not on what the memory held before.
TEST(ExpertOperators, GenerateIsDeterministicAndOverwritesEverything) {
  each_case(std::array{Suite::kQuick}, [](const Operator& op, const Case& c) {
    const TensorSet first = generated(c);
    TensorSet second(op.inputs(c));
    second.fill(0x3C);
    op.generate(c, second);
    ASSERT_EQ(first_difference(first, second), "") << c.str();
    ASSERT_EQ(first_broken_guard(second), "") << c.str();
    Case other = c;
    other.seed = 12345;
    ASSERT_NE(first_difference(first, generated(other)), "") << c.str();
  });
}

TEST(ExpertOperators, TheReferencePassesItsOwnJudge) {
  each_case(kSmallSuites, [](const Operator&, const Case& c) {
    const Judgement j = judged_spoiled(c, [](auto&&...) {});
    ASSERT_EQ(j.verdict, Verdict::kPass) << c.str() << ": " << j.reason;
    ASSERT_TRUE(j.elements > 0 || c.integer("tokens") == 0) << c.str();
  });
}

TEST(ExpertOperators, BlankingTwiceChangesNothingAndWhatIsLeftPasses) {
  each_case(std::array{Suite::kQuick}, [](const Operator& op, const Case& c) {
    const TensorSet inputs = generated(c);
    TensorSet once = reference_run(c, inputs);
    op.blank_unspecified(c, inputs, once);
    TensorSet twice = once;
    op.blank_unspecified(c, inputs, twice);
    ASSERT_EQ(first_difference(once, twice), "") << c.str();
    ASSERT_TRUE(op.name() == "moe_align" || judged(c, inputs, once).failed == 0) << c.str();
  });
}

// ---- The exact tier

TEST(ExpertOperators, IntegersAreExact) {
  each_case(kSmallSuites, [](const Operator& op, const Case& c) {
    if (!data_is(c, "integers") || !has_float_output(c) || op.name() == "moe_block") return;
    const TensorSet inputs = generated(c);
    const auto expected = op.reference(c, inputs);
    for (const reference::Bounded& b : static_cast<const BoundedOutput&>(*expected).out)
      ASSERT_EQ(b.proven, 0) << c.str();
  });
}

// One step of the output's dtype in one element is enough, and most elements are not 0.
TEST(ExpertOperators, IntegersCatchOneStep) {
  each_case(std::array{Suite::kQuick}, [](const Operator&, const Case& c) {
    if (!data_is(c, "integers") || !has_float_output(c)) return;
    double filled = 0, all = 0;
    const Judgement j = judged_spoiled(c, [&](const Case&, const TensorSet&, TensorSet& outputs) {
      const View out = outputs.view("out");
      for (std::int64_t i = 0; i < out.shape.numel(); ++i) filled += ConstView(out).at(i) != 0, ++all;
      const std::int64_t i = out.shape.numel() / 2;
      const double v = ConstView(out).at(i);
      out.set(i, reference::next_up(out.dtype, v == 0 ? 0.0625 : v));
    });
    ASSERT_EQ(j.verdict, Verdict::kFail) << c.str();
    ASSERT_EQ(j.failed, 1) << c.str();
    ASSERT_GT(filled, 0.3 * all) << c.str();
  });
}

// ---- Judges reject

struct Mutation {
  const char* name;
  Spoil spoil;
};

const Mutation kMutations[] = {
    {"zeros", [](const Case&, const TensorSet&, TensorSet& o) { o.fill(0); }},
    {"NaN", [](const Case&, const TensorSet&, TensorSet& o) { o.fill(0xFF); }},
    {"1.5 times",
     [](const Case&, const TensorSet&, TensorSet& o) {
       const View out = o.view("out");
       for (std::int64_t i = 0; i < out.shape.numel(); ++i) out.set(i, 1.5 * ConstView(out).at(i));
     }},
    {"2% more",
     [](const Case& c, const TensorSet&, TensorSet& o) {
       const View out = o.view("out");
       // fp8 codes near a midpoint may fall either way: there a few per cent of one slot are honest.
       const double factor = c.schema().find("quant") >= 0 && c.choice("quant") == "fp8_block" ? 1.2 : 1.02;
       for (std::int64_t i = 0; i < out.shape.numel(); ++i) out.set(i, factor * ConstView(out).at(i));
     }},
    {"last row not written",
     [](const Case&, const TensorSet&, TensorSet& o) {
       const View out = o.view("out");
       for (std::int64_t h = 0; h < out.shape[1]; ++h) out.set((out.shape[0] - 1) * out.shape[1] + h, 0);
     }},
    {"last 8 columns not written",
     [](const Case&, const TensorSet&, TensorSet& o) {
       const View out = o.view("out");
       for (std::int64_t h = out.shape[1] - 8; h < out.shape[1]; ++h) out.set(h, 0);
     }},
    {"rows exchanged",
     [](const Case&, const TensorSet&, TensorSet& o) {
       const View out = o.view("out");
       for (std::int64_t h = 0; h < out.shape[1]; ++h) {
         const double a = ConstView(out).at(h), b = ConstView(out).at(out.shape[1] + h);
         out.set(h, b), out.set(out.shape[1] + h, a);
       }
     }},
};

TEST(ExpertOperators, JudgesRejectWrongOutputs) {
  each_case(std::array{Suite::kQuick}, [](const Operator&, const Case& c) {
    if (!has_float_output(c) || !data_is(c, "realistic") || c.integer("tokens") < 2) return;
    for (const Mutation& m : kMutations)
      ASSERT_TRUE(is_failure(judged_spoiled(c, m.spoil).verdict)) << m.name << ": " << c.str();
  });
}

TEST(SharedExpertsOperator, JudgeRejectsWrongIdsWeightsAndBytes) {
  const auto fails = [](const char* line, const Spoil& spoil) {
    EXPECT_EQ(judged_spoiled(parse_case(line), spoil).verdict, Verdict::kFail) << line;
  };
  fails("shared_experts",
        [](const Case&, const TensorSet&, TensorSet& o) { o.view("out_ids").set_int(2, 7); });
  fails("shared_experts", [](const Case&, const TensorSet&, TensorSet& o) {
    o.view("out_weights").set(2, ConstView(o.view("out_weights")).at(2) * 1.00001);
  });
  fails("shared_experts policy=vllm_rocm ep_size=2",
        [](const Case&, const TensorSet&, TensorSet& o) { o.view("out_ids").set_int(2, 9); });
  fails("shared_experts policy=split n_shared=2",
        [](const Case&, const TensorSet&, TensorSet& o) { o.at("w2").data()[5] ^= std::byte{1}; });
  fails("shared_experts policy=split_ptpc",
        [](const Case&, const TensorSet&, TensorSet& o) { o.at("w2_scale").data()[3] ^= std::byte{1}; });
}

// The slots of an expert may come in any order, but not in another expert's blocks.
TEST(MoeAlignOperator, OrderWithinAnExpertIsOpen) {
  const Case c = parse_case("moe_align tokens=40 topk=2 experts=4");
  const TensorSet inputs = generated(c);
  TensorSet swapped = reference_run(c, inputs), plain = swapped;
  const View ids = swapped.view("sorted_token_ids");
  const std::int64_t first = ConstView(ids).int_at(0), second = ConstView(ids).int_at(1);
  ids.set_int(0, second), ids.set_int(1, first);
  EXPECT_EQ(judged(c, inputs, swapped).verdict, Verdict::kPass);
  EXPECT_NE(first_difference(swapped, plain), "");
  moe_align_operator().blank_unspecified(c, inputs, swapped);
  moe_align_operator().blank_unspecified(c, inputs, plain);
  EXPECT_EQ(first_difference(swapped, plain), "");
}

TEST(MoeAlignOperator, JudgeRejects) {
  const auto fails = [](const char* line, const char* tensor, std::int64_t i, std::int64_t value) {
    const Judgement j = judged_spoiled(parse_case(line), [&](const Case&, const TensorSet&, TensorSet& o) {
      o.view(tensor).set_int(i, value);
    });
    EXPECT_EQ(j.verdict, Verdict::kFail) << line << " " << tensor;
    EXPECT_GT(j.failed, 0);
  };
  for (const char* line : {"moe_align", "moe_align policy=sglang", "moe_align policy=vllm_old",
                           "moe_align ep_size=2 ep_rank=1"}) {
    fails(line, "sorted_token_ids", 0, 8);
    fails(line, "sorted_token_ids", 15, 0);
    fails(line, "expert_ids", 0, 6);
    fails(line, "num_tokens_post_padded", 0, 16);
  }
  fails("moe_align experts=16", "expert_ids", 15, 3);  // behind the last block
  fails("moe_align policy=aiter", "sorted_ids", 0, 5);
  fails("moe_align policy=aiter", "sorted_expert_ids", 0, 7);
  fails("moe_align policy=aiter", "num_valid_ids", 1, 3);
  for (const char* tensor : {"expert_first_token_offset", "row_of_slot", "slot_of_row", "m_indices"})
    fails("moe_align policy=permute", tensor, 1, 77);
  const Judgement j = judged_spoiled(
      parse_case("moe_align policy=permute"),
      [](const Case&, const TensorSet&, TensorSet& o) { o.at("permuted").data()[1] ^= std::byte{8}; });
  EXPECT_EQ(j.verdict, Verdict::kFail);
  const Judgement weight =
      judged_spoiled(parse_case("moe_align policy=aiter"),
                     [](const Case&, const TensorSet&, TensorSet& o) { o.view("sorted_weights").set(0, 2); });
  EXPECT_EQ(weight.verdict, Verdict::kFail);
}

// ---- Undecided rows of moe_block

TEST(MoeBlockOperator, NearTiesAreUndecidedAndTooManyAreMistrusted) {
  const auto with_ties = [](std::int64_t tokens, std::int64_t tied) {
    const Case c = with_tokens(parse_case("moe_block experts=16 topk=2"), tokens);
    TensorSet inputs = generated(c);
    const View logits = inputs.view("router_logits"), bias = inputs.view("e_score_correction_bias");
    for (std::int64_t e = 0; e < 16; ++e) bias.set(e, 0);
    for (std::int64_t t = 0; t < tied; ++t)
      for (std::int64_t e = 0; e < 16; ++e) logits.set(t * 16 + e, 1 + 0x1p-23 * static_cast<double>(e));
    TensorSet outputs = reference_run(c, inputs);
    for (std::int64_t i = 0; i < tied * 64; ++i)
      outputs.view("out").set(i, 1e4);  // undecided rows are not compared
    return judged(c, inputs, outputs);
  };
  const Judgement one = with_ties(11, 1);
  EXPECT_EQ(one.verdict, Verdict::kUndecided) << one.reason;
  EXPECT_EQ(one.undecided, 1);
  EXPECT_EQ(with_ties(9, 1).verdict, Verdict::kMistrusted);
  EXPECT_EQ(with_ties(9, 0).verdict, Verdict::kPass);
}

// ---- Refusals

TEST(ExpertOperators, RefusalsNameTheValueAndTheRemedy) {
  const std::pair<const char*, const char*> refused[] = {
      {"routed_scaling topk=9 experts=8",
       "topk=9 exceeds experts=8: the ids of a token are distinct; use topk<=8"},
      {"routed_scaling place=shared_add_alpha fused=1", "use fused=0 and n_shared=1"},
      {"routed_scaling place=topk_weights_and_shared", "use place=topk_weights"},
      {"routed_scaling fused=1 renormalize=0", "Use weight 1 and topk_weights"},
      {"routed_scaling data=integers",
       "data=integers needs rsf to be a power of two from 1/16 to 16: rsf=2.5; use rsf=2"},
      {"routed_scaling edit=zero:4", "edit=zero:4 is outside the 4 rows"},
      {"shared_experts policy=split_fp8 intermediate=100", "intermediate=100"},
      {"shared_experts ep_size=2", "use insertion=vllm_rocm"},
      {"moe_align policy=aiter topk=256 experts=300", "use topk<256"},
      {"moe_align policy=sglang ep_size=2", "use ep_size=1"},
      {"moe_align ignore_invalid=1", "needs convention=vllm and ep_size>1"},
      {"experts ep_size=3", "ep_size=3 does not divide experts=8"},
      {"experts policy=gpt_oss data=integers rsf=2", "needs activation=silu"},
      {"experts quant=fp8_block data=integers rsf=2", "needs division=divide or reciprocal"},
      {"experts model=kimi-k2", "use fewer experts, a larger ep_size"},
      {"experts clamp=before_silu edit=nan:0", "use clamp=none"},
      {"moe_block gate=aiter_sort", "use aiter_hip"},
      {"moe_block fused=1 n_shared=0", "use fused=0"},
      {"moe_block policy=sglang_cuda_fused ep_size=2", "use insertion=aiter_append or vllm_rocm"},
      {"moe_block policy=sglang_cuda experts=160", "160"},
      {"moe_block policy=vllm_cuda topk=3 data=integers rsf=2", "needs topk to be a power of two"},
      {"moe_block policy=sglang_hip_aiter place=reduce", "place=reduce"},
  };
  for (const auto& [line, part] : refused) {
    const Case c = parse_case(line);
    const auto why = operator_of(c).refusal(c);
    ASSERT_TRUE(why.has_value()) << line;
    EXPECT_NE(why->find(part), std::string::npos) << line << ": " << *why;
  }
}

}  // namespace
}  // namespace moecheck::harness
