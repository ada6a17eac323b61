#pragma once
// Which places of routed_scaling.h an upstream project activates, as pure functions of its flags.
//
// The flags' defaults are the fixed code. A guard that upstream once lacked is a flag too: switch it off and
// the plan is the published bug, which ScalePlan::check() describes and diagnose_scale() recognizes from the
// outputs alone. known_scale_bugs() lists those combinations with their issue.
// Source: sections 2.3 to 2.5 and 5.5 (1 to 15, 34) of the operator notes.
#include <span>
#include <string_view>

#include "reference/routed_scaling.h"

namespace moecheck::reference {

enum class SglangPlatform : std::uint8_t { kCuda, kHip, kCpu, kOther };
enum class SglangPath : std::uint8_t { kNormal, kDualStream, kDeepEp, kTwoBatchOverlap };

struct SglangScaleFlags {
  SglangPlatform platform = SglangPlatform::kCuda;
  SglangPath path = SglangPath::kNormal;
  bool use_aiter = false;
  bool fused_shared = false;
  bool fused_in_topk = false;     // should_fuse_routed_scaling_factor_in_topk, named
                                  // apply_routed_scaling_factor_on_output at the gate
  bool renormalize = true;        // norm_topk_prob
  bool kt_wrapper = false;        // KTEPWrapperMethod: CPU and GPU experts mixed, the model multiplies
  bool ep_every_rank = false;     // every rank computes the fused shared expert and the ranks are summed ...
  bool ep_weight_divided = true;  // ... with weight 1/ep_size
  int ep_size = 1;
  // Guards.
  bool runner_scales = true;  // false: EPMoE sglang#8511/#8402, flashinfer FP4 #8333, cutlass FP8 #8364
  bool dual_stream_checks_aiter = true;    // false: HIP dual stream, glm4_moe.py
  bool overlap_checks_topk = true;         // false: op_output, sglang#35152
  bool kt_runner_stays_out = true;         // false: kvcache-ai/sglang#86
  bool wna16_model_stays_out = true;       // false: marlin multiplies and the model too, sglang#12998
  bool aiter_shared_weight_is_one = true;  // false: mori, sglang#28237
  bool aiter_big_m_gate = false;  // true: M > 212 * CUs dispatches to the gate that ignores the factor
};
ScalePlan sglang_scale_plan(const SglangScaleFlags& flags);

struct VllmScaleFlags {
  bool aiter = false;
  bool fused_shared = false;          // aiter only
  bool apply_scale_to_output = true;  // the model's request: not aiter (deepseek_v2, glm4_moe)
  bool fp16 = false;
  // the decoder divides residual, attention and dense layers by rsf (DeepSeek)
  bool fp16_divided_stream = true;
  bool has_shared = true;
  bool renormalize = true;
  bool monolithic = false;  // flashinfer trtllm: router and experts in one kernel
  int ep_size = 1;
  // Guards.
  bool monolithic_config_gets_one = true;  // false: vllm#45037
  // false: the grouped top-k kernel multiplies while the model does, vllm#24119
  bool gate_kernel_stays_out = true;
  bool ep_partitions_tokens = true;  // false: each rank counts the fused shared slots of all tokens
  bool aiter_big_m_gate = false;
};
ScalePlan vllm_scale_plan(const VllmScaleFlags& flags);

struct AiterScaleFlags {
  bool renormalize = true;
  bool opt_sort = false;  // the sorting kernel multiplies only inside renormalization
  bool big_m_gate = false;
  bool fused_shared = false;  // appended with weight shared_scale
  bool shared_pre_divided = false;
};
ScalePlan aiter_scale_plan(const AiterScaleFlags& flags);

// A published combination: what it was called, where it was reported, and the plan its flags give.
struct KnownScaleBug {
  std::string_view name;   // "hip_dual_stream"
  std::string_view issue;  // "vllm#44313"
  std::string_view summary;
  ScalePlan plan;
};
std::span<const KnownScaleBug> known_scale_bugs();

}  // namespace moecheck::reference
