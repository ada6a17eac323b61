#include "reference/scale_rules.h"

#include <array>

namespace moecheck::reference {
namespace {

// What sglang's gate leaves in the weights.
ScalePlan sglang_weights(const SglangScaleFlags& flags, bool aiter) {
  ScalePlan plan;
  plan.fused_shared = flags.fused_shared;
  plan.renormalized = flags.renormalize;
  if (flags.fused_shared && flags.ep_every_rank && !flags.ep_weight_divided)
    plan.shared_copies = flags.ep_size;
  if (aiter) {
    if (!flags.aiter_big_m_gate) plan = plan.with(ScalePlace::kTopkWeights);
    if (flags.fused_shared && !flags.aiter_shared_weight_is_one)
      plan = plan.with(ScalePlace::kPreDividedShared);
    return plan;
  }
  if (flags.fused_in_topk)
    return plan.with(flags.fused_shared ? ScalePlace::kTopkWeightsAndShared : ScalePlace::kTopkWeights);
  return flags.fused_shared ? plan.with(ScalePlace::kPreDividedShared) : plan;
}

ScalePlan sglang_cuda_output(const SglangScaleFlags& flags, ScalePlan plan) {
  if (flags.fused_in_topk) return plan;
  if (flags.kt_wrapper) {
    plan = plan.with(ScalePlace::kOutput);
    return flags.kt_runner_stays_out ? plan : plan.with(ScalePlace::kReduce);
  }
  if (flags.runner_scales) plan = plan.with(ScalePlace::kReduce);
  return flags.wna16_model_stays_out ? plan : plan.with(ScalePlace::kOutput);
}

template <class Change>
ScalePlan sglang(Change change) {
  SglangScaleFlags flags;
  change(flags);
  return sglang_scale_plan(flags);
}

template <class Change>
ScalePlan vllm(Change change) {
  VllmScaleFlags flags;
  change(flags);
  return vllm_scale_plan(flags);
}

void hip(SglangScaleFlags& flags) {
  flags.platform = SglangPlatform::kHip;
  flags.use_aiter = true;
}

std::array<KnownScaleBug, 15> published() {
  return {{
      {"fused_shared_output_scale", "vllm#44313",
       "GLM, aiter: output scale left on over a fused shared slot of weight 1",
       vllm([](auto& f) { f.aiter = f.fused_shared = true; })},
      {"gate_and_model", "vllm#24119", "grouped top-k kernel multiplies while the model does too",
       vllm([](auto& f) { f.gate_kernel_stays_out = false; })},
      {"monolithic_config", "vllm#45037", "factor handed to the monolithic kernel and applied by the runner",
       vllm([](auto& f) { f.monolithic = true, f.monolithic_config_gets_one = false; })},
      {"fp16_fused_shared", "by reading vLLM moe_runner.py",
       "fp16 with fused shared experts: the stream is divided, the output not",
       vllm([](auto& f) { f.aiter = f.fused_shared = f.fp16 = true; })},
      {"ep_shared_per_rank", "by reading vLLM rocm_aiter_moe.py",
       "fused shared slots of all tokens are counted on every rank", vllm([](auto& f) {
         f.aiter = f.fused_shared = true, f.apply_scale_to_output = false;
         f.ep_size = 4, f.ep_partitions_tokens = false;
       })},
      {"ep_moe_missing", "sglang#8511",
       "GLM-4.5 EPMoE: the expert-parallel path never multiplies (also #8402)",
       sglang([](auto& f) { f.runner_scales = false; })},
      {"flashinfer_fp4_missing", "sglang#8333", "FP4 path without the factor",
       sglang([](auto& f) { f.runner_scales = false; })},
      {"cutlass_fp8_missing", "sglang#8364", "cutlass FP8 path without the factor",
       sglang([](auto& f) { f.runner_scales = false; })},
      {"overlap_output", "sglang#35152", "two-batch overlap multiplies although the factor is fused in top-k",
       sglang([](auto& f) {
         f.path = SglangPath::kTwoBatchOverlap, f.fused_in_topk = true, f.overlap_checks_topk = false;
       })},
      {"hip_dual_stream", "sglang glm4_moe.py",
       "dual-stream branch lacks 'not _use_aiter': HIP with aiter scales twice",
       sglang([](auto& f) { hip(f), f.path = SglangPath::kDualStream, f.dual_stream_checks_aiter = false; })},
      {"kt_wrapper_and_runner", "kvcache-ai/sglang#86", "KT wrapper and runner both multiply the GPU experts",
       sglang([](auto& f) { f.kt_wrapper = true, f.kt_runner_stays_out = false; })},
      {"marlin_and_model", "sglang#12998", "the marlin call multiplies inside, and the model again",
       sglang([](auto& f) { f.wna16_model_stays_out = false; })},
      {"mori_shared", "sglang#28237", "shared slot weighs 1/rsf though aiter scales only the routed weights",
       sglang([](auto& f) { hip(f), f.fused_shared = true, f.aiter_shared_weight_is_one = false; })},
      {"aiter_big_m", "by reading aiter moe_fused_gate",
       "more than 212 tokens per CU: the gate dispatched to ignores the factor",
       aiter_scale_plan({.big_m_gate = true})},
      {"aiter_sort_no_renorm", "by reading aiter topk sort kernel",
       "the factor is multiplied inside renormalization only",
       aiter_scale_plan({.renormalize = false, .opt_sort = true})},
  }};
}

}  // namespace

ScalePlan sglang_scale_plan(const SglangScaleFlags& flags) {
  const bool aiter = flags.platform == SglangPlatform::kHip && flags.use_aiter;
  const bool in_weights = aiter || flags.fused_in_topk;
  const ScalePlan plan = sglang_weights(flags, aiter);
  // Where the shared experts are fused there is nothing to add to: the experts' output itself is multiplied.
  const ScalePlace add = flags.fused_shared ? ScalePlace::kOutput : ScalePlace::kSharedAddAlpha;
  switch (flags.path) {
    case SglangPath::kDeepEp:
      return in_weights ? plan : plan.with(add);
    case SglangPath::kTwoBatchOverlap:
      return in_weights && flags.overlap_checks_topk ? plan : plan.with(add);
    case SglangPath::kNormal:
    case SglangPath::kDualStream:
      break;
  }
  if (flags.platform == SglangPlatform::kCuda) return sglang_cuda_output(flags, plan);
  if (flags.platform == SglangPlatform::kCpu) return in_weights ? plan : plan.with(add);
  const bool unguarded = flags.path == SglangPath::kDualStream && !flags.dual_stream_checks_aiter;
  return in_weights && !unguarded ? plan : plan.with(ScalePlace::kOutput);
}

ScalePlan vllm_scale_plan(const VllmScaleFlags& flags) {
  ScalePlan plan;
  plan.fused_shared = flags.aiter && flags.fused_shared;
  plan.renormalized = flags.renormalize;
  const bool router_scales = !flags.apply_scale_to_output;
  const bool gate_multiplies =
      (router_scales && !(flags.aiter && flags.aiter_big_m_gate)) || !flags.gate_kernel_stays_out;
  if (gate_multiplies || (flags.monolithic && !flags.monolithic_config_gets_one))
    plan = plan.with(ScalePlace::kTopkWeights);
  if (flags.apply_scale_to_output) {
    plan = plan.with(ScalePlace::kRunner);
    plan.half_runner = flags.fp16 && flags.has_shared && !plan.fused_shared;
  }
  if (flags.fp16 && flags.fp16_divided_stream) plan = plan.with(ScalePlace::kResidualStream);
  if (plan.fused_shared && flags.ep_size > 1 && !flags.ep_partitions_tokens)
    plan.shared_copies = flags.ep_size;
  return plan;
}

ScalePlan aiter_scale_plan(const AiterScaleFlags& flags) {
  ScalePlan plan;
  plan.fused_shared = flags.fused_shared;
  plan.renormalized = flags.renormalize;
  if (!flags.big_m_gate && (flags.renormalize || !flags.opt_sort)) plan = plan.with(ScalePlace::kTopkWeights);
  return flags.fused_shared && flags.shared_pre_divided ? plan.with(ScalePlace::kPreDividedShared) : plan;
}

std::span<const KnownScaleBug> known_scale_bugs() {
  static const auto bugs = published();
  return bugs;
}

}  // namespace moecheck::reference
