// The row kernel of gating: logits -> scores -> choice scores -> groups -> ids.
#include <algorithm>
#include <cmath>
#include <limits>

#include "optimized/cpu/gating_plan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/gating_select.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {

using reference::GroupScore;
using reference::NonFinite;
using reference::Scoring;

constexpr float kInf = std::numeric_limits<float>::infinity();
// Keys are the bits of fp32 numbers as int32, in the numbers' order. Below the key of -Inf: NaN, experts
// outside the selected groups, and those that were taken or never existed.
constexpr auto kKeyOfMinusInf = static_cast<std::int32_t>(0x807FFFFF), kKeyOfMinusOne = ~0x3F800000;
constexpr std::int32_t kKeyOfNaN = kKeyOfMinusInf - 1, kKeyMasked = kKeyOfMinusInf - 2, kKeyTaken = INT32_MIN;
constexpr std::int32_t kKeyOfZero = 0, kKeyOfMinNormal = 0x00800000;

HWY_INLINE std::int64_t lane_count() { return static_cast<std::int64_t>(hn::Lanes(DF())); }

// The magnitude bits of a negative number are inverted: the larger magnitude is the smaller number.
HWY_INLINE VI order_key(VF v) {
  const DI di;
  const VI bits = hn::BitCast(di, hn::Add(v, hn::Zero(DF())));  // -0 + 0 is +0: zeros are equal
  const VI sign = hn::BroadcastSignBit(bits);
  const VI flip = hn::And(sign, hn::Set(di, fault(Fault::kFloatOrderKey) ? 1 : INT32_MAX));
  return hn::IfThenElse(hn::RebindMask(di, hn::IsNaN(v)), hn::Set(di, kKeyOfNaN), hn::Xor(bits, flip));
}

// A NaN logit becomes -Inf, whose score is exactly 0 in all three functions.
HWY_INLINE VF replace_non_finite(NonFinite rule, VF x) {
  const DF d;
  if (rule != NonFinite::kLogitZero) return hn::IfThenElse(hn::IsNaN(x), hn::Set(d, -kInf), x);
  if (fault(Fault::kInfiniteLogitKept)) return hn::IfThenElse(hn::IsNaN(x), hn::Zero(d), x);
  return hn::IfThenElse(hn::IsFinite(x), x, hn::Zero(d));
}

void load_logits(const GatingPlan& plan, ConstView router_logits, std::int64_t row, GatingScratch& s) {
  const DF d;
  const std::int64_t n = plan.options.experts;
  load_floats(router_logits, row * plan.options.logit_columns(), n, s.logit.data());
  const bool bias_on_logits = plan.options.policy.bias_on == reference::BiasOn::kLogits;
  for (std::int64_t i = 0; i < n; i += lane_count()) {
    VF x = hn::Load(d, s.logit.data() + i);
    if (bias_on_logits) x = hn::Add(x, hn::Load(d, plan.bias.data() + i));
    hn::Store(replace_non_finite(plan.options.policy.non_finite, x), d, s.logit.data() + i);
  }
  std::fill(s.logit.data() + n, s.logit.data() + plan.padded_experts, -kInf);
}

//   s = sigmoid(x) | sqrt(softplus(x)), or the numerator exp(x - max) of softmax
template <class Score>
HWY_INLINE void score_each(const GatingPlan& plan, GatingScratch& s, Score score) {
  const DF d;
  for (std::int64_t i = 0; i < plan.padded_experts; i += lane_count())
    hn::Store(round_dtype(plan.score_dtype, score(hn::Load(d, s.logit.data() + i))), d, s.score.data() + i);
}

void softmax(const GatingPlan& plan, GatingScratch& s) {
  const DF d;
  VF top = hn::Set(d, -kInf), sum = hn::Zero(d);
  for (std::int64_t i = 0; i < plan.padded_experts; i += lane_count())
    top = hn::Max(top, hn::Load(d, s.logit.data() + i));
  top = fault(Fault::kSoftmaxWithoutMax) ? hn::Zero(d) : hn::MaxOfLanes(d, top);
  for (std::int64_t i = 0; i < plan.padded_experts; i += lane_count()) {
    const VF t = exp(hn::Sub(hn::Load(d, s.logit.data() + i), top));
    sum = hn::Add(sum, t);
    hn::Store(t, d, s.logit.data() + i);
  }
  sum = hn::SumOfLanes(d, sum);
  score_each(plan, s, [&](VF t) { return hn::Div(t, sum); });
}

void compute_scores(const GatingPlan& plan, GatingScratch& s) {
  switch (plan.options.scoring) {
    case Scoring::kSigmoid:
      return score_each(plan, s, [](VF x) { return sigmoid(x); });
    case Scoring::kSoftmax:
      return softmax(plan, s);
    case Scoring::kSqrtSoftplus:
      return score_each(plan, s, [](VF x) {
        if (fault(Fault::kSoftplusLosesTail)) {
          const VF grown = hn::Add(exp(x), hn::Set(DF(), 1.0F));  // 1 + exp(x) is 1 below about -17
          return hn::Sqrt(log1p_unit(hn::Min(hn::Sub(grown, hn::Set(DF(), 1.0F)), hn::Set(DF(), 1.0F))));
        }
        return hn::Sqrt(softplus(x));
      });
  }
}

//   c = s + b, and its key
void compute_choices(const GatingPlan& plan, ConstView router_logits, std::int64_t row, GatingScratch& s) {
  const DF d;
  const std::int64_t n = plan.options.experts;
  const bool adds = plan.options.has_bias && plan.options.policy.bias_on == reference::BiasOn::kChoice;
  for (std::int64_t i = 0; i < n; i += lane_count()) {
    VF c = hn::Load(d, s.score.data() + i);
    if (adds) c = round_dtype(plan.choice_dtype, hn::Add(c, hn::Load(d, plan.bias.data() + i)));
    hn::Store(c, d, s.choice.data() + i);
    hn::Store(order_key(c), DI(), s.key.data() + i);
  }
  if (plan.options.policy.non_finite == NonFinite::kLowest) {
    const std::int64_t first = row * plan.options.logit_columns();
    for (std::int64_t e = 0; e < n; ++e) {
      if (!std::isnan(load_float(router_logits, first + e))) continue;
      s.choice[e] = -kInf;
      s.key[e] = kKeyOfNaN;
    }
  }
  std::fill(s.key.data() + n, s.key.data() + plan.padded_experts, kKeyTaken);
}

// The two largest of c[0..n), by lane, then over lanes. When the largest occurs twice it is also the second;
// else its lane's own second takes its place among the lanes' largest.
HWY_INLINE float group_score_of(GroupScore rule, const float* c, std::int64_t n) {
  const DF d;
  VF first = hn::Set(d, -kInf), second = first;
  for (std::int64_t i = 0; i < n; i += lane_count()) {
    VF v = hn::LoadU(d, c + i);
    const std::int64_t left = fault(Fault::kGroupTailOfFour) ? (n - i + 3) / 4 * 4 : n - i;
    if (n - i < lane_count())
      v = hn::IfThenElse(hn::FirstN(d, static_cast<std::size_t>(left)), v, hn::Set(d, -kInf));
    if (rule == GroupScore::kTop2Distinct)
      second = hn::Max(second, hn::IfThenElse(hn::Eq(v, first), second, hn::Min(first, v)));
    else
      second = hn::Max(second, hn::Min(first, v));
    first = hn::Max(first, v);
  }
  const VF largest = hn::MaxOfLanes(d, first);
  if (rule == GroupScore::kMax) return hn::GetLane(largest);
  const auto holds = hn::Eq(first, largest);
  const bool twice = hn::CountTrue(d, holds) > 1 && rule != GroupScore::kTop2Distinct;
  const VF next = twice ? largest : hn::MaxOfLanes(d, hn::IfThenElse(holds, second, first));
  return hn::GetLane(hn::Add(largest, next));
}

// Marks the topk_group best groups; the others' keys become those of masked experts.
void select_groups(const GatingPlan& plan, GatingScratch& s) {
  const std::int64_t groups = plan.options.groups, size = plan.options.experts / groups;
  GroupScore rule = plan.group_score;
  if (fault(Fault::kGroupScoreMax)) rule = GroupScore::kMax;
  if (fault(Fault::kGroupSecondDistinct) && rule == GroupScore::kTop2Sum) rule = GroupScore::kTop2Distinct;
  for (std::int64_t g = 0; g < groups; ++g) {
    const float score = group_score_of(rule, s.choice.data() + g * size, size);
    s.group[g] = rule == GroupScore::kMax ? score : MOECHECK_OPTIMIZED::round_dtype(plan.choice_dtype, score);
    if (fault(Fault::kPositiveMinSentinel) && !(s.group[g] > 0)) s.group[g] = 0x1p-126F;
    s.allowed[static_cast<std::size_t>(g)] = 0;
  }
  const std::int64_t wanted =
      plan.options.topk_group - (fault(Fault::kOneGroupLess) && plan.options.topk_group > 1);
  for (std::int64_t k = 0; k < wanted; ++k) {
    std::int64_t best = -1;
    for (std::int64_t position = 0; position < groups; ++position) {
      const std::int64_t g =
          plan.group_order.empty() ? position : plan.group_order[static_cast<std::size_t>(position)];
      if (s.allowed[static_cast<std::size_t>(g)]) continue;
      const bool better = best < 0 || s.group[g] > s.group[best] || (s.group[best] != s.group[best]);
      if (better || (fault(Fault::kGroupTieHigh) && s.group[g] == s.group[best])) best = g;
    }
    s.allowed[static_cast<std::size_t>(best)] = 1;
  }
  const bool zero = (plan.options.policy.masked == reference::Masked::kZero) != fault(Fault::kMaskZero);
  const std::int32_t masked = fault(Fault::kPositiveMinSentinel) ? kKeyOfMinNormal
                              : zero                             ? kKeyOfZero
                                                                 : kKeyMasked;
  for (std::int64_t g = 0; g < groups; ++g)
    if (!s.allowed[static_cast<std::size_t>(g)])
      std::fill(s.key.data() + g * size, s.key.data() + (g + 1) * size, masked);
}

// The first position of the largest key.
HWY_INLINE std::int64_t find_largest(const std::int32_t* key, std::int64_t n, std::int32_t& largest) {
  const DI di;
  const std::int64_t lanes = lane_count();
  VI a = hn::Load(di, key), b = hn::Load(di, key + lanes), c = hn::Load(di, key + 2 * lanes),
     e = hn::Load(di, key + 3 * lanes);
  for (std::int64_t i = 4 * lanes; i < n; i += 4 * lanes) {
    a = hn::Max(a, hn::Load(di, key + i));
    b = hn::Max(b, hn::Load(di, key + i + lanes));
    c = hn::Max(c, hn::Load(di, key + i + 2 * lanes));
    e = hn::Max(e, hn::Load(di, key + i + 3 * lanes));
  }
  const VI top = hn::MaxOfLanes(di, hn::Max(hn::Max(a, b), hn::Max(c, e)));
  largest = hn::GetLane(top);
  for (std::int64_t i = 0;; i += lanes) {
    const std::intptr_t at = hn::FindFirstTrue(di, hn::Eq(hn::Load(di, key + i), top));
    if (at >= 0) return i + at;
  }
}

std::int64_t find_largest_high(const std::int32_t* key, std::int64_t n, std::int32_t largest) {
  while (key[--n] != largest) {
  }
  return n;
}

void select_experts(const GatingPlan& plan, GatingScratch& s) {
  std::int32_t* key = s.key.data();
  if (!plan.expert_order.empty()) {
    for (std::int64_t p = 0; p < plan.options.experts; ++p)
      s.ordered_key[p] = key[plan.expert_order[static_cast<std::size_t>(p)]];
    std::fill(s.ordered_key.data() + plan.options.experts, s.ordered_key.data() + plan.padded_experts,
              kKeyTaken);
    key = s.ordered_key.data();
  }
  for (std::int32_t& id : s.ids) {
    std::int32_t largest = 0;
    std::int64_t p = find_largest(key, plan.padded_experts, largest);
    if (fault(Fault::kExpertTieHigh)) p = find_largest_high(key, plan.options.experts, largest);
    if (fault(Fault::kArgmaxFromMinusOne) && largest < kKeyOfMinusOne) p = 0;
    key[p] = kKeyTaken;
    id = plan.expert_order.empty() ? static_cast<std::int32_t>(p)
                                   : plan.expert_order[static_cast<std::size_t>(p)];
  }
  if (plan.options.policy.order == reference::SlotOrder::kId) std::sort(s.ids.begin(), s.ids.end());
}

void select_row(const GatingPlan& plan, ConstView router_logits, std::int64_t row, GatingScratch& s) {
  load_logits(plan, router_logits, row, s);
  compute_scores(plan, s);
  compute_choices(plan, router_logits, row, s);
  if (plan.options.groups > 1) select_groups(plan, s);
  select_experts(plan, s);
}

float sigmoid_of(float x) { return hn::GetLane(sigmoid(hn::Set(DF(), x))); }

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {
HWY_EXPORT(select_row);
HWY_EXPORT(sigmoid_of);
GatingSelect gating_select() { return MOECHECK_DISPATCH(select_row); }
VectorSigmoid vector_sigmoid() { return MOECHECK_DISPATCH(sigmoid_of); }
}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
