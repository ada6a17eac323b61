// The second half of gating: weights of the chosen experts, shared slots, padding. A handful of numbers per
// row: scalar.
#include <algorithm>
#include <cmath>

#include "optimized/cpu/gating_plan.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::Epsilon;
using reference::GatingOptions;
using reference::Padding;
using reference::SharedWeight;

float divisor(Epsilon epsilon, float sum) {
  if (fault(Fault::kRenormLargeEpsilon)) return sum + 1e-2F;
  switch (epsilon) {
    case Epsilon::kNone:
      return sum;
    case Epsilon::kAdd:
      return sum + 1e-20F;
    case Epsilon::kMax:
      return std::max(sum, 1e-20F);
    case Epsilon::kGuard:
      return sum > 0 ? sum : 1.0F;
  }
  return sum;
}

// One row's weights: every step rounds to `dtype` when the policy computes in the logits' dtype.
struct RowWeights {
  const GatingPlan& plan;
  const GatingScratch& scratch;
  float sum = 0, rsf = 1;

  RowWeights(const GatingPlan& p, const GatingScratch& s)
      : plan(p), scratch(s), rsf(static_cast<float>(p.options.routed_scaling_factor)) {}

  float step(float v) const { return round_dtype(plan.weight_dtype, v); }

  float raw(std::int32_t id) const {
    const GatingOptions& o = plan.options;
    const auto group = static_cast<std::size_t>(id / (o.experts / o.groups));
    if (o.groups > 1 && !o.has_bias && !scratch.allowed[group]) return 0;
    if (fault(Fault::kBiasedWeight)) return scratch.choice[id];
    const bool biased = o.has_bias && o.policy.bias_on == reference::BiasOn::kChoice;
    if (o.policy.weight_from == reference::WeightFrom::kScore || !biased) return scratch.score[id];
    if (std::isinf(plan.bias[id])) return scratch.score[id];  // a dead expert that won as a masked candidate
    // in fp32, whatever the choice was rounded to
    return (scratch.score[id] + plan.bias[id]) - plan.bias[id];
  }

  float scaled(float w) const {
    if (!plan.scales || fault(Fault::kScaleDropped)) return w;
    if (fault(Fault::kScaleInverse)) return step(w / rsf);
    return step(fault(Fault::kScaleTwice) ? w * rsf * rsf : w * rsf);
  }

  //   w / D(S), * rsf where the policy has it
  float routed(std::int32_t id) const {
    float w = raw(id);
    if (plan.renormalizes && !fault(Fault::kRenormDropped)) {
      const float d = divisor(plan.options.policy.epsilon, sum);
      const bool reciprocal = fault(Fault::kReciprocalInLargeBatch) && plan.tokens > 16;
      w = step(reciprocal ? w * (1.0F / d) : w / d);
    }
    return scaled(w);
  }

  float shared(float gate) const {
    const GatingOptions& o = plan.options;
    const bool renorm = plan.renormalizes;
    switch (o.policy.shared_weights) {
      case SharedWeight::kNone:
        return 0;
      case SharedWeight::kUnit:
        return 1;
      case SharedWeight::kConstant:
        return static_cast<float>(o.shared_weight);
      case SharedWeight::kGated:
        return round_dtype(plan.score_dtype, gate);
      case SharedWeight::kUnitIfRenorm:
        return renorm ? 1 : step(sum / rsf);
      case SharedWeight::kPreRenorm:
        break;
    }
    if (fault(Fault::kSharedNotPreDivided)) return scaled(renorm ? 1 : sum);
    const float w = step(sum / rsf);
    return scaled(renorm ? step(w / divisor(o.policy.epsilon, sum)) : w);
  }
};

void write_padding(const GatingPlan& plan, std::int64_t row, View topk_weights, View topk_ids) {
  const std::int64_t slots = plan.options.slots();
  for (std::int64_t k = 0; k < slots; ++k) {
    topk_weights.as<float>()[row * slots + k] = 0;
    store_id(topk_ids, row * slots + k, plan.options.policy.padding == Padding::kMinusOne ? -1 : 0);
  }
}

float gate_of(const GatingPlan& plan, ConstView router_logits, std::int64_t row, std::int64_t slot) {
  if (plan.options.policy.shared_weights != SharedWeight::kGated) return 0;
  const GatingOptions& o = plan.options;
  return vector_sigmoid()(load_float(router_logits, row * o.logit_columns() + o.experts + slot));
}

std::int64_t shared_id(const GatingOptions& o, std::int64_t slot) {
  if (fault(Fault::kSharedIdOneLow)) return o.experts + slot - 1;
  const bool same = o.policy.shared_ids == reference::SharedIds::kSame || fault(Fault::kSharedIdSame);
  return o.experts + (same ? 0 : slot);
}

// sglang's older torch path: the last column of an unsorted top-k is replaced, whichever expert is there.
void overwrite_best_slot(const GatingPlan& plan, std::int64_t first, View topk_weights, View topk_ids) {
  topk_weights.as<float>()[first] = topk_weights.as<float>()[first + plan.options.topk];
  store_id(topk_ids, first, plan.options.experts);
}

}  // namespace

void gating_write(const GatingPlan& plan, ConstView router_logits, std::int64_t row,
                  const GatingScratch& scratch, View topk_weights, View topk_ids) {
  const GatingOptions& o = plan.options;
  const bool padded = row >= plan.tokens - o.padded_tokens && o.policy.padding != Padding::kCompute;
  if (padded && !fault(Fault::kPaddingNotMasked)) return write_padding(plan, row, topk_weights, topk_ids);
  RowWeights weights(plan, scratch);
  for (const std::int32_t id : scratch.ids) weights.sum += weights.raw(id);
  if (fault(Fault::kRenormIncludesShared) && o.shared > 0)
    weights.sum += static_cast<float>(o.shared) * weights.sum / weights.rsf;
  weights.sum = weights.step(weights.sum);

  const std::int64_t first = row * o.slots();
  float* out = topk_weights.as<float>() + first;
  for (std::int64_t k = 0; k < o.topk; ++k) {
    const std::int32_t id = scratch.ids[static_cast<std::size_t>(k)];
    out[fault(Fault::kWeightsReversed) ? o.topk - 1 - k : k] = weights.routed(id);
    if (fault(Fault::kIdsAlways32Bit))
      topk_ids.as<std::int32_t>()[first + k] = id;
    else
      store_id(topk_ids, first + k, id);
  }
  for (std::int64_t i = 0; i < o.shared; ++i) {
    out[o.topk + i] = weights.shared(gate_of(plan, router_logits, row, i));
    if (fault(Fault::kSharedWeightSplit)) out[o.topk + i] /= static_cast<float>(o.shared);
    store_id(topk_ids, first + o.topk + i, shared_id(o, i));
  }
  if (fault(Fault::kSharedOverwritesBest) && o.shared > 0)
    overwrite_best_slot(plan, first, topk_weights, topk_ids);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
