#pragma once
// The gates people ship, as presets of GatingPolicy, each with what its upstream refuses.
//
//   transformers  hf_deepseek_v3 (release 5: masked -Inf; also GLM-4-MoE), hf_deepseek_v3_zero (release 4:
//                 masked 0), hf_deepseek_v2, hf_qwen3_next
//   sglang        sglang_fused (moe_fused_gate), sglang_torch (biased_grouped_topk_impl), sglang_torch_v2 (no
//                 bias), sglang_flashinfer (noAuxTc), sglang_kimi_small and sglang_kimi_large (ungrouped,
//                 up to and above 512 tokens), sglang_jit (grouped_topk.cuh), sglang_triton,
//                 sglang_topk_sigmoid, sglang_topk_softmax, sglang_topk_softmax_any (expert counts that
//                 are no power of two)
//   vLLM          vllm_torch, vllm_cuda (grouped_topk), vllm_topk_softmax, vllm_softplus
//   aiter         aiter_hip, aiter_sort, aiter_bigm, aiter_gating, aiter_topk_softmax (gated shared slots)
//
// Where an upstream is silently wrong for a request (drops routed_scaling_factor, ignores renormalize=false,
// gives every shared slot the same expert), the preset refuses that request and says so: a reference that
// repeats a defect would bless it. The policy fields can still express the defect, on a case line of one's
// own. A gate that reads its dtypes without checking them (vLLM, aiter) is asked only what it reads rightly.
// Each preset's file and commit: GatingPreset::source.
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "reference/gating.h"

namespace moecheck::reference {

struct GatingPreset {
  std::string_view name;
  std::string_view summary;  // one line for `moecheck list policies`
  std::string_view source;   // file or issue upstream
  GatingPolicy policy;
  // Why this upstream refuses the request, with the value and what to use instead; nothing when it accepts.
  // `tokens` matters where dispatch depends on the batch size.
  std::optional<std::string> (*refuses)(const GatingOptions& options, std::int64_t tokens);
};

std::span<const GatingPreset> gating_presets();
const GatingPreset* find_gating_preset(std::string_view name);

}  // namespace moecheck::reference
