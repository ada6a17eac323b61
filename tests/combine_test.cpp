// The weighted reduce, the factor at its place, and the shared add.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "reference/routed_scaling.h"
#include "tests/moe_test_support.h"

namespace moecheck::reference {
namespace {

constexpr double kRsf = 2.827;

struct CombineCase {
  std::int64_t tokens, topk, hidden;
  WeightTensor routed, shared, weights, ids;
  CombineInputs inputs(bool with_shared = true) const {
    return {routed.view(), weights.view(), ids.view(), with_shared ? shared.view() : ConstView{}};
  }
};

CombineCase combine_case(DType dtype, std::uint64_t seed, std::int64_t tokens, std::int64_t topk,
                         std::int64_t hidden) {
  Rng rng(seed);
  CombineCase c{tokens, topk, hidden, {}, {}, {}, {}};
  c.routed = normal_tensor(dtype, Shape(tokens, topk, hidden), rng);
  c.shared = normal_tensor(dtype, Shape(tokens, hidden), rng);
  c.weights = float_tensor(Shape(tokens, topk), random_weights(rng, tokens, topk));
  c.ids = int_tensor(Shape(tokens, topk), random_ids(rng, tokens, topk, topk + 3, 0.1));
  for (std::int64_t s = 0; s < tokens * topk; ++s)  // nobody's slots hold NaN
    for (std::int64_t h = 0; h < hidden && c.ids.view().int_at(s) < 0; ++h)
      c.routed.mutable_view().set(s * hidden + h, std::nan(""));
  return c;
}

// As someone would write it, in fp32.
struct NaiveCombine {
  bool round_weighted = false, round_sum = false, round_reduced = true, accumulate_narrow = false,
       drop_last = false;
  double in_reduce = 1, after_reduce = 1;
};
std::vector<double> naive_combine(const CombineCase& c, DType dtype, const NaiveCombine& how,
                                  bool with_shared) {
  std::vector<double> out;
  const auto narrow = [&](float v) { return static_cast<float>(round_to(dtype, v)); };
  for (std::int64_t t = 0; t < c.tokens; ++t)
    for (std::int64_t h = 0; h < c.hidden; ++h) {
      float sum = 0;
      for (std::int64_t k = 0; k < c.topk - (how.drop_last ? 1 : 0); ++k) {
        if (c.ids.view().int_at(t * c.topk + k) < 0) continue;
        float term =
            static_cast<float>(c.routed.view().at(t, k, h)) * static_cast<float>(c.weights.view().at(t, k));
        if (how.round_weighted) term = narrow(term);
        sum += term;
        if (how.accumulate_narrow) sum = narrow(sum);
      }
      if (how.round_sum) sum = narrow(sum);
      sum *= static_cast<float>(how.in_reduce);
      if (how.round_reduced && (with_shared || how.after_reduce != 1)) sum = narrow(sum);
      if (how.after_reduce != 1) sum *= static_cast<float>(how.after_reduce);
      if (how.after_reduce != 1 && with_shared) sum = narrow(sum);
      if (with_shared) sum += static_cast<float>(c.shared.view().at(t, h));
      out.push_back(narrow(sum));
    }
  return out;
}

RC_GTEST_PROP(CombineProperties, AnHonestReduceStaysWithinItsBounds, (std::uint64_t seed)) {
  const DType dtype = *rc::gen::element(DType::kBF16, DType::kF16, DType::kF32);
  const CombineCase c =
      combine_case(dtype, seed, *rc::gen::inRange(1, 4), *rc::gen::inRange(1, 10), *rc::gen::inRange(1, 24));
  const bool with_shared = *rc::gen::arbitrary<bool>(), in_reduce = *rc::gen::arbitrary<bool>();
  NaiveCombine how;
  how.round_weighted = *rc::gen::arbitrary<bool>();
  how.round_sum = *rc::gen::arbitrary<bool>();
  how.accumulate_narrow = *rc::gen::arbitrary<bool>();
  (in_reduce ? how.in_reduce : how.after_reduce) = kRsf;
  CombineOptions options;
  options.dtype = dtype;
  options.routed_scaling_factor = kRsf;
  options.plan = ScalePlan::of(in_reduce ? ScalePlace::kReduce : ScalePlace::kOutput);
  options.round_weighted = how.round_weighted ? Rounding::kRound : Rounding::kNone;
  options.round_sum = how.round_sum ? Rounding::kRound : Rounding::kNone;
  options.reduce.accumulate = how.accumulate_narrow ? Accumulate::kDtype : Accumulate::kF32;
  options.reduce.order = *rc::gen::element(ReduceOrder::kSlot, ReduceOrder::kAny);
  const std::string why =
      rejection(naive_combine(c, dtype, how, with_shared), combine(c.inputs(with_shared), options), dtype);
  RC_ASSERT(why == "");
}

RC_GTEST_PROP(CombineProperties, IntegersComeOutExactly, (std::uint64_t seed)) {
  Rng rng(seed);
  CombineCase c = combine_case(DType::kBF16, seed, 3, *rc::gen::inRange(1, 9), 16);
  c.routed = integer_tensor(DType::kBF16, c.routed.shape, rng, 8);
  c.shared = integer_tensor(DType::kBF16, c.shared.shape, rng, 8);
  std::vector<double> weights;
  for (std::int64_t i = 0; i < c.weights.shape.numel(); ++i)
    weights.push_back(std::ldexp(1.0, static_cast<int>(integer(rng, -2, 0))));
  c.weights = float_tensor(c.weights.shape, weights);
  CombineOptions options;
  options.routed_scaling_factor = 2;
  options.reduce.order = *rc::gen::element(ReduceOrder::kSlot, ReduceOrder::kExpert, ReduceOrder::kAny);
  options.reduce.accumulate = *rc::gen::element(Accumulate::kF32, Accumulate::kDtype);
  const std::vector<Bounded> expected = combine(c.inputs(), options);
  RC_ASSERT(all_exact(expected));
  NaiveCombine how;
  how.in_reduce = 2;
  RC_ASSERT(rejection(naive_combine(c, DType::kBF16, how, true), expected, DType::kBF16) == "");
}

RC_GTEST_PROP(CombineProperties, NarrowAccumulationInAnyOrderStaysWithinItsBounds, (std::uint64_t seed)) {
  Rng rng(seed);
  const std::int64_t n = *rc::gen::inRange(2, 12);
  std::vector<Bounded> terms;
  std::vector<std::int64_t> ids, order;
  for (std::int64_t i = 0; i < n; ++i)
    terms.push_back(Bounded::exact(round_to(DType::kBF16, normal(rng)))), ids.push_back(i),
        order.push_back(i);
  const Bounded expected =
      reduce_slots(terms.data(), ids.data(), n, DType::kBF16, {Accumulate::kDtype, ReduceOrder::kAny});
  std::shuffle(order.begin(), order.end(), rng);
  double sum = 0;
  for (const std::int64_t i : order)
    sum = round_to(DType::kBF16, sum + terms[static_cast<std::size_t>(i)].value);
  RC_ASSERT(std::fabs(sum - expected.value) <= expected.proven);
}

TEST(Combine, FaultsLeaveTheBounds) {
  const CombineCase c = combine_case(DType::kBF16, 11, 8, 8, 64);
  CombineOptions options;
  options.routed_scaling_factor = kRsf;
  const std::vector<Bounded> expected = combine(c.inputs(), options);
  NaiveCombine honest;
  honest.in_reduce = kRsf;
  EXPECT_EQ(rejection(naive_combine(c, DType::kBF16, honest, true), expected, DType::kBF16), "");
  const auto killed = [&](auto change) {
    NaiveCombine how = honest;
    change(how);
    return rejection(naive_combine(c, DType::kBF16, how, true), expected, DType::kBF16, false) != "";
  };
  EXPECT_TRUE(killed([](auto& f) { f.accumulate_narrow = true; })) << "reduce in bf16";
  EXPECT_TRUE(killed([](auto& f) { f.round_weighted = true; })) << "an extra rounding per slot";
  EXPECT_TRUE(killed([](auto& f) { f.round_sum = true; })) << "an extra rounding before the scale";
  EXPECT_TRUE(killed([](auto& f) { f.drop_last = true; })) << "last slot dropped";
  EXPECT_TRUE(killed([](auto& f) { f.in_reduce = 1; })) << "scale missing";
  EXPECT_TRUE(killed([](auto& f) { f.after_reduce = kRsf; })) << "scale twice";
  EXPECT_TRUE(killed([](auto& f) { f.in_reduce = 1 / kRsf; })) << "divided instead of multiplied";
}

TEST(Combine, ASlotOfNobodyContributesNothingEvenWhenItIsNaN) {
  Rng rng(3);
  CombineCase c = combine_case(DType::kF32, 3, 2, 3, 4);
  c.ids = int_tensor(Shape(2, 3), {-1, -1, -1, -1, 2, -1});
  c.routed = normal_tensor(DType::kF32, Shape(2, 3, 4), rng);
  for (const std::int64_t s : {0, 1, 2, 3, 5})
    for (std::int64_t h = 0; h < 4; ++h) c.routed.mutable_view().set(s * 4 + h, std::nan(""));
  CombineOptions options;
  options.dtype = DType::kF32;
  const std::vector<Bounded> out = combine(c.inputs(false), options);
  for (std::size_t h = 0; h < 4; ++h) {
    EXPECT_EQ(out[h].value, 0);
    EXPECT_TRUE(out[h].is_exact());
    EXPECT_EQ(out[4 + h].value,
              c.weights.view().at(1, 1) * c.routed.view().at(1, 1, static_cast<std::int64_t>(h)));
  }
}

TEST(Combine, EveryPlaceGivesTheSameNumberInExactArithmetic) {
  CombineCase c = combine_case(DType::kF32, 5, 1, 2, 8);
  Rng rng(5);
  c.ids = int_tensor(Shape(1, 2), {0, 1});
  c.routed = integer_tensor(DType::kF32, Shape(1, 2, 8), rng, 9);
  c.shared = integer_tensor(DType::kF32, Shape(1, 8), rng, 9);
  c.weights = float_tensor(Shape(1, 2), {0.5, 0.25});
  for (const ScalePlace place :
       {ScalePlace::kReduce, ScalePlace::kOutput, ScalePlace::kSharedAddAlpha, ScalePlace::kRunner}) {
    CombineOptions options;
    options.dtype = DType::kF32;
    options.routed_scaling_factor = 4;
    options.plan = ScalePlan::of(place);
    const std::vector<Bounded> out = combine(c.inputs(), options);
    for (std::int64_t h = 0; h < 8; ++h) {
      const Bounded& b = out[static_cast<std::size_t>(h)];
      EXPECT_TRUE(b.is_exact());
      EXPECT_EQ(b.value,
                2 * c.routed.view().at(0, 0, h) + c.routed.view().at(0, 1, h) + c.shared.view().at(0, h))
          << name(place);
    }
  }
  CombineOptions half;
  half.dtype = DType::kF32;
  half.routed_scaling_factor = 4;
  half.plan = ScalePlan::of(ScalePlace::kRunner).with(ScalePlace::kResidualStream);
  half.plan.half_runner = true;
  const std::vector<Bounded> out = combine(c.inputs(), half);
  for (std::int64_t h = 0; h < 8; ++h)
    EXPECT_EQ(4 * out[static_cast<std::size_t>(h)].value,
              2 * c.routed.view().at(0, 0, h) + c.routed.view().at(0, 1, h) + c.shared.view().at(0, h))
        << "the fp16 form is the block divided by rsf";
}

// 40000 + 40000 - 30000 is Inf in f16 in some orders and 50000 in others; where each order stays finite, the sum must be.
TEST(ReduceInDtype, AnOrderMayOverflowOnTheWay) {
  const std::vector<std::int64_t> ids = {0, 1, 2};
  const ReducePolicy any = {Accumulate::kDtype, ReduceOrder::kAny};
  const Bounded over[] = {Bounded::exact(40000), Bounded::exact(40000), Bounded::exact(-30000)};
  EXPECT_TRUE(std::isinf(reduce_slots(over, ids.data(), 3, DType::kF16, any).proven));
  EXPECT_TRUE(std::isfinite(reduce_slots(over, ids.data(), 3, DType::kBF16, any).proven));
  const Bounded within[] = {Bounded::exact(30001.5), Bounded::exact(30000), Bounded::exact(-30003.25)};
  EXPECT_TRUE(std::isfinite(reduce_slots(within, ids.data(), 3, DType::kF16, any).proven));
}

}  // namespace
}  // namespace moecheck::reference
