// The whole block: fused and unfused shared experts are one function, the ranks of a group add up to it, an honest
// implementation stays within its bounds, and two numbers name the scaling bugs people shipped.
#include "reference/moe_block.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <numeric>

#include "reference/scale_diagnosis.h"
#include "tests/block_test_support.h"
#include "tests/naive_experts.h"

namespace moecheck::reference {
namespace {

RC_GTEST_PROP(MoeBlockProperties, FusedAndUnfusedSharedExpertsAreOneFunction, (std::uint64_t seed)) {
  Rng rng(seed);
  const BlockCase plain = block_case(DType::kF32, *rc::gen::inRange(1, 5), rng);
  std::vector<SharedSlot> slots = shared_slots(plain);
  std::shuffle(slots.begin(), slots.end(), rng);
  const MoeBlockResult want = plain.run();
  for (const Fusion fusion : {Fusion::kAppend, Fusion::kVllm, Fusion::kGatePreDivided, Fusion::kGateScaled}) {
    const BlockCase c = fused(plain, fusion, slots);
    RC_ASSERT(!c.options.effective_plan().check());
    RC_ASSERT(compatible(want.out, c.run().out));
  }
}

TEST(MoeBlock, WrongFusionsAreNotTheSameFunction) {
  Rng rng(51);
  const BlockCase plain = block_case(DType::kF32, 2, rng);
  const MoeBlockResult want = plain.run();
  const std::vector<SharedSlot> slots = shared_slots(plain);
  EXPECT_FALSE(compatible(want.out, fused(plain, Fusion::kAppend, {slots[0], slots[0]}).run().out))
      << "chunk 0 replicated";
  BlockCase c = fused(plain, Fusion::kAppend, slots);
  c.options.append_weight = 0.5;
  EXPECT_FALSE(compatible(want.out, c.run().out)) << "weight 1/n";
  c = fused(plain, Fusion::kGatePreDivided, slots);
  c.options.gating.policy.shared_ids = SharedIds::kSame;
  EXPECT_FALSE(compatible(want.out, c.run().out)) << "every shared slot has id E";
  c = fused(plain, Fusion::kGatePreDivided, slots);
  c.options.gating.renormalize = false;
  BlockCase raw = plain;
  raw.options.gating.renormalize = false;
  EXPECT_TRUE(c.options.effective_plan().check());
  EXPECT_FALSE(compatible(raw.run().out, c.run().out)) << "S variant without renormalization";
}

ScaleDiagnosis diagnosis_of(const MoeBlockResult& r, std::span<const double> out, int ep = 1) {
  const ScaleFit fit = fit_scale(out, r.routed, r.shared);
  DiagnosisContext context;
  context.routed_scaling_factor = kRsf, context.ep_size = ep;
  return diagnose_scale(fit.alpha, fit.beta, context);
}
std::string_view diagnosis_of(const BlockCase& c) {
  const MoeBlockResult r = c.run();
  std::vector<double> out;
  for (const Bounded& b : r.out) out.push_back(round_to(c.options.experts.dtype, b.value));
  return diagnosis_of(r, out).name;
}

TEST(MoeBlock, TwoNumbersNameTheScalingBugs) {
  Rng rng(52);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const BlockCase plain = block_case(dtype, 1, rng, 8);
    const std::vector<SharedSlot> slots = shared_slots(plain);
    const auto changed = [](BlockCase c, auto change) {
      change(c.options);
      return c;
    };
    const auto plan = [](MoeBlockOptions& o, std::initializer_list<ScalePlace> places) {
      o.combine.plan.places = 0;
      for (const ScalePlace place : places) o.combine.plan = o.combine.plan.with(place);
    };
    EXPECT_EQ(diagnosis_of(plain), "correct");
    for (const Fusion fusion : {Fusion::kAppend, Fusion::kGatePreDivided, Fusion::kGateScaled})
      EXPECT_EQ(diagnosis_of(fused(plain, fusion, slots)), "correct");

    const BlockCase missing = changed(plain, [&](auto& o) { plan(o, {}); });
    EXPECT_EQ(diagnosis_of(missing), "scale_missing") << "sglang#8511";
    const BlockCase twice = changed(plain, [&](auto& o) {
      o.gating.policy.scale_weights = ScaleWeights::kAlways;
      plan(o, {ScalePlace::kOutput});
    });
    EXPECT_EQ(diagnosis_of(twice), "scale_twice") << "HIP dual stream";
    const BlockCase whole = changed(fused(plain, Fusion::kVllm, slots), [&](auto& o) {
      o.gating.policy.scale_weights = ScaleWeights::kNever;
      plan(o, {ScalePlace::kRunner});
    });
    EXPECT_EQ(diagnosis_of(whole), "whole_output_scaled") << "vllm#44313";
    const BlockCase mori = changed(fused(plain, Fusion::kAppend, slots),
                                   [](auto& o) { o.append_weight = static_cast<float>(1 / kRsf); });
    EXPECT_EQ(diagnosis_of(mori), "shared_slot_divided") << "sglang#28237";
    const BlockCase unfinished =
        changed(fused(plain, Fusion::kGatePreDivided, slots), [&](auto& o) { plan(o, {}); });
    EXPECT_EQ(diagnosis_of(unfinished), "pre_divided_without_output_scale");
    const BlockCase both =
        changed(fused(plain, Fusion::kGateScaled, slots), [&](auto& o) { plan(o, {ScalePlace::kReduce}); });
    EXPECT_EQ(diagnosis_of(both), "weights_and_output_scaled");
    for (const BlockCase* bug : {&missing, &twice, &whole, &unfinished, &both})
      EXPECT_TRUE(bug->options.effective_plan().check()) << "seen before anything is computed";

    BlockCase zero = fused(plain, Fusion::kAppend, slots);
    std::fill(zero.w2.bytes.end() - static_cast<std::ptrdiff_t>(slots[0].w2.bytes.size()),
              zero.w2.bytes.end(), std::uint8_t{0});
    std::vector<double> lost;
    for (const Bounded& b : zero.run().out) lost.push_back(b.value);
    EXPECT_EQ(diagnosis_of(plain.run(), lost).name, "shared_lost") << "vllm#44313, draft layers";
  }
}

BlockCase rank_of(const BlockCase& whole, std::int64_t rank, std::int64_t ranks) {
  BlockCase c = whole;
  c.options.ep_rank = rank, c.options.ep_size = ranks;
  const std::int64_t experts = whole.options.gating.experts, per_rank = experts / ranks;
  const auto slab = [&](WeightTensor& w) {
    const std::size_t one = w.bytes.size() / static_cast<std::size_t>(w.shape[0]);
    std::vector<std::uint8_t> part(
        w.bytes.begin() + static_cast<std::ptrdiff_t>(one) * rank * per_rank,
        w.bytes.begin() + static_cast<std::ptrdiff_t>(one) * (rank + 1) * per_rank);
    part.insert(part.end(), w.bytes.begin() + static_cast<std::ptrdiff_t>(one) * experts, w.bytes.end());
    w.shape.dim[0] += per_rank - experts;
    w.bytes = part;
  };
  slab(c.w13), slab(c.w2);
  return c;
}

RC_GTEST_PROP(MoeBlockProperties, TheRanksAddUpToTheBlock, (std::uint64_t seed)) {
  Rng rng(seed);
  const BlockCase plain = block_case(DType::kF32, *rc::gen::inRange(1, 4), rng, 5);
  const std::int64_t ranks = *rc::gen::element(1, 2, 4, 8);
  const std::vector<Bounded> want = plain.run().out;
  const int form = *rc::gen::inRange(0, 3);
  BlockCase whole = plain;
  if (form == 1) whole = fused(plain, Fusion::kAppend, shared_slots(plain));
  if (form == 2) whole = fused(plain, Fusion::kVllm, shared_slots(plain));
  whole.options.append_weight = 1.0 / static_cast<double>(ranks);
  std::vector<Bounded> total(want.size());
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const std::vector<Bounded> part = rank_of(whole, rank, ranks).run().out;
    for (std::size_t i = 0; i < part.size(); ++i) total[i] = total[i] + part[i];
  }
  RC_ASSERT(compatible(want, total));
}

TEST(MoeBlock, SharedExpertsOnEveryRankAreCountedThatOften) {
  Rng rng(53);
  BlockCase plain = block_case(DType::kF32, 1, rng, 8);
  const MoeBlockResult want = plain.run();
  plain.options.shared_on_every_rank = true;
  std::vector<double> total(want.out.size(), 0);
  for (std::int64_t rank = 0; rank < 4; ++rank) {
    const std::vector<Bounded> part = rank_of(plain, rank, 4).run().out;
    for (std::size_t i = 0; i < part.size(); ++i) total[i] += part[i].value;
  }
  EXPECT_EQ(diagnosis_of(want, total, 4).name, "shared_once_per_rank");
  EXPECT_TRUE(rank_of(plain, 0, 4).options.effective_plan().check());
}

std::vector<double> naive_dense(const BlockCase& c) {  // S, stored in T
  ExpertsCase mlp;
  mlp.tokens = c.tokens;
  mlp.options = c.options.experts;
  mlp.options.intermediate *= c.options.shared_experts;
  mlp.options.topk = mlp.options.experts = mlp.options.local_experts = 1;
  mlp.options.router_weight = RouterWeight::kNone;
  mlp.x = c.x, mlp.w13 = c.shared_w13, mlp.w2 = c.shared_w2;
  mlp.w13.shape = Shape(1, c.shared_w13.shape[0], c.shared_w13.shape[1]);
  mlp.w2.shape = Shape(1, c.shared_w2.shape[0], c.shared_w2.shape[1]);
  mlp.ids = int_tensor(Shape(c.tokens, 1), std::vector<std::int64_t>(static_cast<std::size_t>(c.tokens), 0));
  mlp.weights = float_tensor(Shape(c.tokens, 1), std::vector<double>(static_cast<std::size_t>(c.tokens), 1));
  return NaiveExperts(mlp).run();
}

// Gate in fp32, experts, reduce with the factor, shared add: sglang's path on CUDA.
std::vector<double> naive_block(const BlockCase& c) {
  const GatingOptions& g = c.options.gating;
  ExpertsCase routed;
  routed.tokens = c.tokens;
  routed.options = c.options.derived_experts();
  routed.options.reduce_scale = kRsf;
  routed.x = c.x, routed.w13 = c.w13, routed.w2 = c.w2;
  std::vector<std::int64_t> ids;
  std::vector<double> weights;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    std::vector<float> score, choice;
    for (std::int64_t e = 0; e < g.experts; ++e) {
      score.push_back(1.0F / (1.0F + std::exp(-static_cast<float>(c.logits.view().at(t, e)))));
      choice.push_back(score.back() + static_cast<float>(c.bias.view().at(e)));
    }
    std::vector<std::int64_t> order(static_cast<std::size_t>(g.experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
      return choice[static_cast<std::size_t>(a)] > choice[static_cast<std::size_t>(b)];
    });
    float sum = 0;
    for (std::int64_t k = 0; k < g.topk; ++k)
      sum += score[static_cast<std::size_t>(order[static_cast<std::size_t>(k)])];
    for (std::int64_t k = 0; k < g.topk; ++k) {
      ids.push_back(order[static_cast<std::size_t>(k)]);
      weights.push_back(score[static_cast<std::size_t>(ids.back())] / sum);
    }
  }
  routed.ids = int_tensor(Shape(c.tokens, g.topk), ids);
  routed.weights = float_tensor(Shape(c.tokens, g.topk), weights);
  std::vector<double> out = NaiveExperts(routed).run();
  const std::vector<double> shared = naive_dense(c);
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = round_to(c.options.experts.dtype,
                      static_cast<double>(static_cast<float>(out[i]) + static_cast<float>(shared[i])));
  return out;
}

RC_GTEST_PROP(MoeBlockProperties, AnHonestBlockStaysWithinTheBounds, (std::uint64_t seed)) {
  Rng rng(seed);
  const DType dtype = *rc::gen::element(DType::kF32, DType::kBF16, DType::kF16);
  const BlockCase c = block_case(dtype, *rc::gen::inRange(1, 3), rng);
  const MoeBlockResult r = c.run();
  if (std::find(r.ambiguous.begin(), r.ambiguous.end(), true) != r.ambiguous.end())
    RC_DISCARD("a tie within the bounds");
  RC_ASSERT(rejection(naive_block(c), r.out, dtype) == "");
}

TEST(MoeBlock, ABlockWithoutItsLastExpertLeavesTheBounds) {
  Rng rng(54);
  const BlockCase c = block_case(DType::kBF16, 1, rng, 6);
  BlockCase less = c;
  less.options.gating.topk = 2;
  EXPECT_NE(rejection(naive_block(less), c.run().out, DType::kBF16), "");
}

}  // namespace
}  // namespace moecheck::reference
