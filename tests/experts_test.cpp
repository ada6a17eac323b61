// Routed experts: an honest fp32 implementation stays within the bounds, every planted mistake leaves them, and integers come
// out exactly.
#include "reference/experts.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/naive_experts.h"

namespace moecheck::reference {
namespace {

ExpertsOptions small_options(std::int64_t hidden, std::int64_t intermediate, std::int64_t topk,
                             std::int64_t experts) {
  ExpertsOptions o;
  o.hidden = hidden, o.intermediate = intermediate, o.topk = topk, o.experts = o.local_experts = experts;
  o.activation.round_silu = Rounding::kRound;
  return o;
}

ExpertsOptions random_options(bool fp8) {
  ExpertsOptions o = small_options(*rc::gen::inRange(1, fp8 ? 300 : 40), *rc::gen::inRange(1, fp8 ? 150 : 24),
                                   *rc::gen::inRange(1, 4), 4);
  o.dtype = *rc::gen::element(DType::kBF16, DType::kF16, DType::kF32);
  o.activation.layout =
      *rc::gen::element(GateUpLayout::kGateUp, GateUpLayout::kUpGate, GateUpLayout::kInterleaved);
  o.activation.activation = *rc::gen::element(Activation::kSilu, Activation::kSilu, Activation::kSwigluOai);
  o.activation.clamp = *rc::gen::element(Clamp::kNone, Clamp::kBeforeSilu, Clamp::kAfterSilu);
  o.activation.limit = *rc::gen::element(0.0, 0.5, 7.0);
  const auto rounding = [] { return *rc::gen::element(Rounding::kRound, Rounding::kNone); };
  o.activation.round_silu = rounding();
  o.activation.round_product = rounding();
  o.round_gate_up = rounding();
  o.round_slot = rounding();
  o.router_weight = *rc::gen::element(RouterWeight::kOutput, RouterWeight::kOutput, RouterWeight::kInput,
                                      RouterWeight::kNone);
  o.reduce.accumulate = *rc::gen::element(Accumulate::kF32, Accumulate::kF32, Accumulate::kDtype);
  o.reduce.order = *rc::gen::element(ReduceOrder::kAny, ReduceOrder::kSlot);
  return o;
}

RC_GTEST_PROP(ExpertsProperties, AnHonestImplementationStaysWithinTheBounds, (std::uint64_t seed)) {
  Rng rng(seed);
  const ExpertsOptions o = random_options(false);
  const ExpertsCase c = experts_case(o, o.dtype, *rc::gen::inRange(1, 4), rng, 0.1);
  RC_ASSERT(rejection(NaiveExperts(c).run(), experts(c.inputs(), c.options), o.dtype) == "");
}

RC_GTEST_PROP(ExpertsProperties, UnspecifiedRoundingsAreCoveredWhicheverAnImplementationTakes,
              (std::uint64_t seed)) {
  Rng rng(seed);
  ExpertsCase c = experts_case(random_options(false), DType::kBF16, *rc::gen::inRange(1, 4), rng);
  c.options.dtype = DType::kBF16;
  c.x = normal_tensor(DType::kBF16, c.x.shape, rng);
  ExpertsOptions any = c.options;
  any.activation.round_silu = any.activation.round_product = any.round_gate_up = any.round_slot =
      Rounding::kAny;
  RC_ASSERT(rejection(NaiveExperts(c).run(), experts(c.inputs(), any), DType::kBF16) == "");
}

RC_GTEST_PROP(ExpertsProperties, AnHonestFp8ImplementationStaysWithinTheBounds, (std::uint64_t seed)) {
  Rng rng(seed);
  ExpertsOptions o = random_options(true);
  o.fp8_activations = *rc::gen::weightedElement<bool>({{3, true}, {1, false}});
  o.quant.division = *rc::gen::element(QuantDivision::kDivide, QuantDivision::kReciprocal);
  o.quant.scale_format = *rc::gen::element(ScaleFormat::kF32, ScaleFormat::kUE8M0);
  const ExpertsCase c = experts_case(o, DType::kE4M3FN, *rc::gen::inRange(1, 3), rng);
  const std::vector<double> got = NaiveExperts(c).run();
  RC_ASSERT(rejection(got, experts(c.inputs(), o), o.dtype) == "");
  ExpertsOptions any = o;
  any.quant.division = QuantDivision::kAny;
  RC_ASSERT(rejection(got, experts(c.inputs(), any), o.dtype) == "");
}

// Gates of +-512 make silu exact, and everything after is integers times powers of two.
ExpertsCase integer_case(const ExpertsOptions& o, std::int64_t tokens, Rng& rng) {
  ExpertsCase c = experts_case(o, o.dtype, tokens, rng, 0.2);
  c.x = integer_tensor(o.dtype, c.x.shape, rng, 2);
  c.w13 = integer_tensor(o.dtype, c.w13.shape, rng, 2);
  c.w2 = integer_tensor(o.dtype, c.w2.shape, rng, 2);
  for (std::int64_t t = 0; t < tokens; ++t) c.x.mutable_view().set(t * o.hidden, 1);
  for (std::int64_t e = 0; e < o.local_experts; ++e)
    for (std::int64_t i = 0; i < o.intermediate; ++i)
      for (std::int64_t h = 0; h < o.hidden; ++h)
        c.w13.mutable_view().set(
            (e * 2 * o.intermediate + gate_row(o.activation.layout, o.intermediate, i)) * o.hidden + h,
            h == 0 ? 512 * static_cast<double>(integer(rng, -1, 1)) : 0);
  std::vector<double> weights;
  for (std::int64_t s = 0; s < tokens * o.topk; ++s)
    weights.push_back(std::ldexp(1, static_cast<int>(integer(rng, -3, 0))));
  c.weights = float_tensor(c.weights.shape, weights);
  return c;
}

RC_GTEST_PROP(ExpertsProperties, IntegersAndPowersOfTwoComeOutExactly, (std::uint64_t seed)) {
  Rng rng(seed);
  ExpertsOptions o =
      small_options(*rc::gen::inRange(1, 16), *rc::gen::inRange(1, 12), *rc::gen::inRange(1, 5), 5);
  o.dtype = *rc::gen::element(DType::kBF16, DType::kF32);
  o.activation.layout =
      *rc::gen::element(GateUpLayout::kGateUp, GateUpLayout::kUpGate, GateUpLayout::kInterleaved);
  o.activation.round_silu = *rc::gen::element(Rounding::kRound, Rounding::kNone, Rounding::kAny);
  o.activation.round_product = *rc::gen::element(Rounding::kRound, Rounding::kNone, Rounding::kAny);
  const ExpertsCase c = integer_case(o, *rc::gen::inRange(1, 4), rng);
  const std::vector<Bounded> expected = experts(c.inputs(), o);
  RC_ASSERT(all_exact(expected));
  RC_ASSERT(rejection(NaiveExperts(c).run(), expected, o.dtype) == "");
}

TEST(Experts, EveryPlantedMistakeLeavesTheBounds) {
  ExpertsOptions o = small_options(64, 32, 4, 6);
  o.activation.clamp = Clamp::kBeforeSilu, o.activation.limit = 1.5;
  Rng rng(41);
  const ExpertsCase c = experts_case(o, DType::kBF16, 6, rng, 0.1);
  const std::vector<Bounded> expected = experts(c.inputs(), o);
  ASSERT_EQ(rejection(NaiveExperts(c).run(), expected, o.dtype), "");
  for (const Mistake& m : std::initializer_list<Mistake>{
           {Fault::kSwapGateUp, "gate and up swapped"},
           {Fault::kInterleaved, "stacked rows read as interleaved"},
           {Fault::kClampAfterSilu, "clamp after silu"},
           {Fault::kNoClamp, "no clamp"},
           {Fault::kWeightMissing, "weight missing"},
           {Fault::kWeightTwice, "weight twice"},
           {Fault::kWeightBeforeActivation, "weight before the activation"},
           {Fault::kWeightOfNextSlot, "weight of the next slot"},
           {Fault::kDropLastSlot, "last slot dropped"},
           {Fault::kLastColumnsUnwritten, "last 8 columns unwritten"},
           {Fault::kMinusOneIsExpertZero, "id -1 treated as expert 0"},
           {Fault::kReduceNarrow, "reduce in bf16"},
       })
    EXPECT_NE(rejection(NaiveExperts(c, m.fault).run(), expected, o.dtype), "") << m.words;
}

TEST(Experts, MistakesWithBlockScalesLeaveTheBounds) {
  ExpertsOptions o = small_options(300, 200, 2, 3);
  o.fp8_activations = true;
  Rng rng(42);
  const ExpertsCase c = experts_case(o, DType::kE4M3FN, 3, rng);
  const std::vector<Bounded> expected = experts(c.inputs(), o);
  ASSERT_EQ(rejection(NaiveExperts(c).run(), expected, o.dtype), "");
  for (const Mistake& m : std::initializer_list<Mistake>{
           {Fault::kScaleIndexSwapped, "n/128 and k/128 swapped"},
           {Fault::kScaleDivides, "divided by the scale"},
           {Fault::kOneScalePerRow, "the first scale of a row for all of it"},
           {Fault::kSwapGateUp, "gate and up swapped"},
       })
    EXPECT_NE(rejection(NaiveExperts(c, m.fault).run(), expected, o.dtype), "") << m.words;
  ExpertsCase unquantized = c;
  unquantized.options.fp8_activations = false;
  EXPECT_NE(rejection(NaiveExperts(unquantized).run(), expected, o.dtype), "")
      << "activations were not quantized";
}

TEST(Experts, ARoundingThePolicyAsksForIsMissed) {
  ExpertsOptions o = small_options(64, 32, 4, 6);
  Rng rng(43);
  const ExpertsCase c = experts_case(o, DType::kBF16, 8, rng);
  EXPECT_NE(rejection(NaiveExperts(c, Fault::kSkipGateUpRounding).run(), experts(c.inputs(), o), o.dtype),
            "");
}

RC_GTEST_PROP(ExpertsProperties, TheRanksOfAnExpertParallelGroupAddUpToTheWhole, (std::uint64_t seed)) {
  Rng rng(seed);
  ExpertsOptions o = small_options(12, 8, 3, 8);
  o.dtype = DType::kF32;
  const ExpertsCase whole = experts_case(o, DType::kF32, 3, rng);
  const std::vector<Bounded> full = experts(whole.inputs(), o);
  const std::int64_t ranks = *rc::gen::element(2, 4, 8), per_rank = 8 / ranks;
  std::vector<std::int64_t> owner;  // any placement, not only contiguous ranges
  for (std::int64_t e = 0; e < 8; ++e) owner.push_back(e % ranks);
  std::shuffle(owner.begin(), owner.end(), rng);
  std::vector<double> total(full.size(), 0), bound(full.size(), 0);
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    ExpertsCase part = whole;
    part.options.local_experts = per_rank;
    std::vector<std::int64_t> map;
    std::int64_t local = 0;
    const std::size_t slab13 = whole.w13.bytes.size() / 8, slab2 = whole.w2.bytes.size() / 8;
    part.w13 = WeightTensor(DType::kF32, Shape(per_rank, 16, 12)),
    part.w2 = WeightTensor(DType::kF32, Shape(per_rank, 12, 8));
    for (std::size_t e = 0; e < 8; ++e) {
      map.push_back(owner[e] == rank ? local : -1);
      if (owner[e] != rank) continue;
      const auto l = static_cast<std::size_t>(local++);
      std::copy_n(whole.w13.bytes.data() + e * slab13, slab13, part.w13.bytes.data() + l * slab13);
      std::copy_n(whole.w2.bytes.data() + e * slab2, slab2, part.w2.bytes.data() + l * slab2);
    }
    part.expert_map = int_tensor(Shape(8), map);
    const std::vector<Bounded> out = experts(part.inputs(), part.options);
    RC_ASSERT(rejection(NaiveExperts(part).run(), out, DType::kF32) == "");
    if (per_rank > 1 && ranks > 1)
      RC_ASSERT(rejection(NaiveExperts(part, Fault::kGlobalIdAsLocal).run(), out, DType::kF32) != "");
    for (std::size_t i = 0; i < out.size(); ++i) total[i] += out[i].value, bound[i] += out[i].proven;
  }
  for (std::size_t i = 0; i < full.size(); ++i) RC_ASSERT(std::fabs(total[i] - full[i].value) <= bound[i]);
}

TEST(Experts, WhatNobodyIsRoutedToIsNeverRead) {
  ExpertsOptions o = small_options(6, 4, 2, 3);
  Rng rng(5);
  ExpertsCase c = experts_case(o, DType::kBF16, 3, rng);
  c.ids = int_tensor(Shape(3, 2), {-1, -1, 1, -1, -1, 1});
  for (const std::int64_t e : {0, 2}) {  // experts 0 and 2, and token 0, hold NaN
    for (std::int64_t i = 0; i < 8 * 6; ++i) c.w13.mutable_view().set(e * 48 + i, std::nan(""));
    for (std::int64_t i = 0; i < 6 * 4; ++i) c.w2.mutable_view().set(e * 24 + i, std::nan(""));
  }
  for (std::int64_t h = 0; h < 6; ++h) c.x.mutable_view().set(h, std::nan(""));
  c.weights.mutable_view().set(0, std::nan(""));
  const std::vector<Bounded> out = experts(c.inputs(), o);
  for (std::size_t i = 0; i < 6; ++i)
    EXPECT_TRUE(out[i].is_exact() && out[i].value == 0) << "a token without experts is zero";
  for (const Bounded& b : out) EXPECT_TRUE(std::isfinite(b.value) && std::isfinite(b.proven));
}

RC_GTEST_PROP(ExpertsProperties, TheOrderOfTokensAndOfSlotsDoesNotMatter, (std::uint64_t seed)) {
  Rng rng(seed);
  const ExpertsOptions o = small_options(10, 6, 3, 5);
  const ExpertsCase c = experts_case(o, DType::kBF16, 4, rng);
  const std::vector<Bounded> expected = experts(c.inputs(), o);
  std::vector<std::int64_t> order = {0, 1, 2, 3};
  std::shuffle(order.begin(), order.end(), rng);
  ExpertsCase moved = c;
  for (std::int64_t t = 0; t < 4; ++t) {
    const std::int64_t from = order[static_cast<std::size_t>(t)];
    for (std::int64_t h = 0; h < 10; ++h) moved.x.mutable_view().set(t * 10 + h, c.x.view().at(from, h));
    for (std::int64_t k = 0; k < 3; ++k) {  // slots rotated
      moved.ids.mutable_view().set_int(t * 3 + k, c.ids.view().int_at(from * 3 + (k + 1) % 3));
      moved.weights.mutable_view().set(t * 3 + k, c.weights.view().at(from, (k + 1) % 3));
    }
  }
  const std::vector<double> got = NaiveExperts(moved).run();
  std::vector<double> back(got.size());
  for (std::size_t t = 0; t < 4; ++t)
    std::copy_n(got.begin() + static_cast<std::ptrdiff_t>(t * 10), 10, back.begin() + order[t] * 10);
  RC_ASSERT(rejection(back, expected, DType::kBF16) == "");
}

TEST(ExpertsRefusals, SayTheValueAndWhatToDo) {
  Rng rng(6);
  const ExpertsOptions o = small_options(8, 4, 2, 3);
  const ExpertsCase c = experts_case(o, DType::kBF16, 2, rng);
  const auto refused = [&](auto change) {
    ExpertsCase changed = c;
    change(changed);
    try {
      experts(changed.inputs(), changed.options);
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refused([](auto&) {}), "accepted");
  EXPECT_NE(
      refused([](auto& f) { f.options.intermediate = 5; }).find("w13 has shape [3, 8, 8], not [3, 10, 8]"),
      std::string::npos);
  EXPECT_NE(refused([](auto& f) { f.options.fp8_activations = true; }).find("w8a8 needs fp8 weights"),
            std::string::npos);
  EXPECT_NE(refused([](auto& f) {
              f.ids.mutable_view().set_int(3, 3);
            }).find("topk_ids[1, 1]=3 is outside [-1, 3)"),
            std::string::npos);
  EXPECT_NE(refused([](auto& f) { f.ids.mutable_view().set_int(0, -2); }).find("topk_ids[0, 0]=-2"),
            std::string::npos);
  EXPECT_NE(refused([](auto& f) {
              f.w13_scale = WeightTensor(DType::kF32, Shape(3, 1, 1));
            }).find("only fp8 weights"),
            std::string::npos);
  EXPECT_NE(refused([](auto& f) {
              f.options.experts = 9, f.ids.mutable_view().set_int(0, 7);
            }).find("give an expert_map"),
            std::string::npos);
  EXPECT_NE(refused([](auto& f) { f.options.dtype = DType::kF16; }).find("hidden_states is bf16"),
            std::string::npos);
}

}  // namespace
}  // namespace moecheck::reference
