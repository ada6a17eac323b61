#include "optimized/cpu/gating.h"

#include <algorithm>
#include <memory>

#include "optimized/cpu/gating_plan.h"
#include "optimized/cpu/machine_faults.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::GatingOptions;
using reference::Precision;
using reference::ScaleWeights;
using reference::Tie;

constexpr std::int64_t kExpertMultiple = 64;  // four vectors of 16

std::int64_t reversed_bits(std::int64_t v) {
  std::int64_t r = 0;
  for (int bit = 0; bit < 5; ++bit) r = r << 1 | (v >> bit & 1);
  return r;
}

// Positions in the order in which equals are taken; empty for ascending indices.
std::vector<std::int32_t> tie_order(Tie tie, std::int64_t n) {
  if (tie == Tie::kLow || tie == Tie::kAny) return {};
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  for (std::int32_t i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = i;
  const auto rank = [tie](std::int64_t i) {
    if (tie == Tie::kHigh) return -i;
    if (tie == Tie::kLane64) return i % 64 << 32 | i / 64;
    return reversed_bits(i / 32) * 32 + reversed_bits(i % 32);
  };
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return rank(a) < rank(b); });
  return order;
}

bool scales_weights(const GatingOptions& o, bool renormalizes) {
  if (o.routed_scaling_factor == 1) return false;
  switch (o.policy.scale_weights) {
    case ScaleWeights::kNever:
      return false;
    case ScaleWeights::kAlways:
      return !fault(Fault::kScaleOnlyWithRenorm) || renormalizes;
    case ScaleWeights::kIfRenorm:
      return renormalizes;
    case ScaleWeights::kIfFlag:
      return o.scale_flag;
    case ScaleWeights::kIfFlagAndRenorm:
      return o.scale_flag && renormalizes;
  }
  return false;
}

void load_bias(const GatingPlan& plan, ConstView bias, AlignedFloats& out) {
  const GatingOptions& o = plan.options;
  std::fill(out.data(), out.data() + plan.padded_experts, 0.0F);
  if (!o.has_bias || !bias) return;
  const bool narrow = o.policy.bias_cast == reference::BiasCast::kLogitsDtype;
  const std::int64_t group = o.experts / o.groups;
  for (std::int64_t e = 0; e < o.experts; ++e) {
    out[e] = load_float(bias, fault(Fault::kBiasShiftedByGroup) ? (e + group) % o.experts : e);
    if (narrow) out[e] = round_dtype(o.logits_dtype, out[e]);
    if (fault(Fault::kBiasRoundedToBf16)) out[e] = round_bf16(out[e]);
  }
}

}  // namespace

GatingPlan::GatingPlan(const GatingOptions& gating_options, ConstView bias_view, std::int64_t rows)
    : options(gating_options), tokens(rows) {
  const auto& p = options.policy;
  padded_experts = (options.experts + kExpertMultiple - 1) / kExpertMultiple * kExpertMultiple;
  renormalizes = options.renormalize || p.renorm == reference::Renorm::kAlways;
  scales = scales_weights(options, renormalizes);
  const bool biased = options.has_bias && p.bias_on == reference::BiasOn::kChoice;
  group_score = p.group_score;
  if (group_score == reference::GroupScore::kAuto)
    group_score = biased ? reference::GroupScore::kTop2Sum : reference::GroupScore::kMax;
  if (p.precision != Precision::kF32) score_dtype = options.logits_dtype;
  if (p.precision == Precision::kSelect || p.precision == Precision::kAll) {
    const bool keeps = biased && p.bias_cast == reference::BiasCast::kKeep;
    choice_dtype = !keeps || options.bias_dtype == options.logits_dtype ? options.logits_dtype : DType::kF32;
  }
  if (p.precision == Precision::kAll) weight_dtype = options.logits_dtype;
  bias.resize(padded_experts);
  load_bias(*this, bias_view, bias);
  // The dispatch threshold of sglang's kimi gate, where the rule for ties changes with the batch.
  const bool other_kernel = fault(Fault::kTieDependsOnBatch) && tokens > 16;
  expert_order = tie_order(other_kernel ? Tie::kHigh : p.expert_tie, options.experts);
  group_order = tie_order(p.group_tie, options.groups);
}

GatingScratch::GatingScratch(const GatingPlan& plan)
    : logit(plan.padded_experts),
      score(plan.padded_experts),
      choice(plan.padded_experts + kExpertMultiple),  // the last group's last vector may begin anywhere
      group(plan.options.groups),
      key(plan.padded_experts),
      ordered_key(plan.padded_experts),
      ids(static_cast<std::size_t>(plan.options.topk)),
      allowed(static_cast<std::size_t>(plan.options.groups)) {
  // Whole vectors are read behind the last expert; what is there is not used, but it must be a number's bits.
  std::fill(choice.data(), choice.data() + plan.padded_experts + kExpertMultiple, 0.0F);
  std::fill(score.data(), score.data() + plan.padded_experts, 0.0F);
}

std::optional<std::string> gating_unsupported(const GatingOptions& options) {
  if (options.experts > INT32_MAX / 2) return "more than 2^30 experts: their indices are int32 here";
  return std::nullopt;
}

void gating(const GatingOptions& options, ConstView router_logits, ConstView bias, View topk_weights,
            View topk_ids, CpuOptions cpu) {
  constexpr std::int64_t kRows = 16;  // one task: long enough to be worth handing out
  const std::int64_t tokens = topk_ids.shape[0];
  const GatingPlan plan(options, bias, tokens);
  const GatingSelect select = gating_select();
  std::vector<GatingScratch> scratch;
  for (int i = 0; i < std::max(1, cpu.threads); ++i) scratch.emplace_back(plan);
  parallel_for(cpu.threads, (tokens + kRows - 1) / kRows, [&](std::int64_t task, int worker) {
    GatingScratch& mine = scratch[static_cast<std::size_t>(worker)];
    for (std::int64_t row = task * kRows; row < std::min(tokens, (task + 1) * kRows); ++row) {
      select(plan, router_logits, row, mine);
      gating_write(plan, router_logits, row, mine, topk_weights, topk_ids);
    }
  });
  if (fault(Fault::kGatingWritesPastEnd)) write_past_end(topk_ids);
  if (fault(Fault::kGatingModifiesLogits)) modify_first_byte(router_logits);
  if (fault(Fault::kGatingLeavesFlushToZero)) leave_flush_to_zero();
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
