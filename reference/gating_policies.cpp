#include "reference/gating_policies.h"

#include <algorithm>
#include <array>
#include <bit>

#include "reference/gating_demands.h"

namespace moecheck::reference {
namespace {

constexpr std::string_view kIgnoresRenorm = "renormalizes whatever the flag says";
constexpr std::string_view kDropsFactor =
    "multiplies by it only together with renormalization and would drop it";
constexpr std::string_view kNoFactor = "never multiplies by it";

constexpr std::string_view kUngrouped =
    "sglang kimi_k2_moe_fused_gate.cuh, moe_fused_gate_ungrouped.cu@44b2d531";
constexpr std::string_view kTopkSoftmax = "sglang sgl-kernel/csrc/moe/moe_topk_softmax_kernels.cu@07a95796";

// Families that share a row of demands. The shared columns of the ungrouped gates are reserved, and filled by
// others.
Ask kimi(std::string_view policy, const GatingOptions& o) {
  return Ask(policy, o)
      .need(o.experts == 256 || o.experts == 384, "experts=" + number(o.experts),
            "has kernels for 256 and 384", "sglang_jit")
      .one_group("sglang_fused")
      .topk_at_most(8, "sglang_triton")
      .sigmoid("sglang_topk_softmax")
      .bias()
      .f32_logits()
      .f32_bias()
      .keeps_factor(!o.scale_flag || o.renormalize, kDropsFactor, "scale_flag=false and scale the output");
}

Ask topk_softmax(std::string_view policy, const GatingOptions& o) {
  return Ask(policy, o)
      .softmax("sglang_topk_sigmoid")
      .one_group("sglang_torch_v2")
      .f32_bias()
      .keeps_factor(false, "has none: sglang asserts that softmax models leave it out",
                    "routed_scaling_factor=1");
}

// sglang asserts the flag off for aiter, whose weights hold the factor already: with it the factor would
// count twice.
Ask aiter(std::string_view policy, const GatingOptions& o) {
  return Ask(policy, o)
      .sigmoid("aiter_gating")
      .bias()
      .need(!o.scale_flag, "scale_flag=true", "scales its weights itself", "scale_flag=false");
}

// Padding: sglang masks ids after the gate on CUDA (_mask_topk_ids_padded_region), whichever gate ran.
// clang-format off
constexpr GatingPreset kPresets[] = {
    {"hf_deepseek_v3", "transformers 5 router of DeepSeek-V3 and GLM-4-MoE",
     "transformers modeling_deepseek_v3.py, modeling_glm4_moe.py 5.23 (masked -inf since 5)",
     {.group_tie = Tie::kAny, .expert_tie = Tie::kAny, .epsilon = Epsilon::kAdd,
      .scale_weights = ScaleWeights::kAlways, .order = SlotOrder::kAny},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("hf_deepseek_v3", o).sigmoid("hf_deepseek_v2").bias().f32_logits();
     }},
    {"hf_deepseek_v3_zero", "the same, masked experts at 0: transformers 4, remote code",
     "transformers modular_deepseek_v3.py@000c33fd",
     {.group_tie = Tie::kAny, .expert_tie = Tie::kAny, .masked = Masked::kZero, .epsilon = Epsilon::kAdd,
      .scale_weights = ScaleWeights::kAlways, .order = SlotOrder::kAny},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("hf_deepseek_v3_zero", o).sigmoid("hf_deepseek_v2").bias().f32_logits();
     }},
    // norm_topk_prob is in the configuration and not in the code: the weights are never renormalized.
    {"hf_deepseek_v2", "transformers router of DeepSeek-V2", "transformers modeling_deepseek_v2.py 5.23",
     {.group_tie = Tie::kAny, .expert_tie = Tie::kAny, .masked = Masked::kZero,
      .scale_weights = ScaleWeights::kAlways, .order = SlotOrder::kAny},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("hf_deepseek_v2", o).softmax("hf_deepseek_v3").no_bias("hf_deepseek_v3").f32_logits()
           .need(!o.renormalize, "renormalize=true", "never renormalizes", "vllm_torch");
     }},
    // The shared expert is beside the router: its gate is not in the weights.
    {"hf_qwen3_next", "transformers router of Qwen3-Next", "transformers modeling_qwen3_next.py 5.23",
     {.expert_tie = Tie::kAny},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("hf_qwen3_next", o).softmax("hf_deepseek_v3").no_bias("sglang_topk_softmax")
           .one_group("hf_deepseek_v2").f32_logits()
           .keeps_factor(false, kNoFactor, "routed_scaling_factor=1");
     }},
    // K + shared <= candidates and rsf != 0 are unchecked upstream; the general refusal covers them.
    {"sglang_fused", "sglang moe_fused_gate, CUDA",
     "sglang sgl-kernel/csrc/moe/moe_fused_gate.cu, jit moe_fused_gate.cuh@0470ac65",
     {.precision = Precision::kSelect, .renorm = Renorm::kAlways, .scale_weights = ScaleWeights::kIfFlag,
      .shared_weights = SharedWeight::kPreRenorm, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("sglang_fused", o).power_of_two("vllm_cuda").per_group_at_most(32, "vllm_cuda")
           .sigmoid("sglang_topk_softmax or vllm_torch").bias().bias_like_logits()
           .renormalized(kIgnoresRenorm, "sglang_torch");
     }},
    // Asks top-k for topk + shared experts and overwrites the last column alone with one random chunk of the
    // shared expert.
    {"sglang_torch", "sglang torch fallback with a bias", "sglang topk.py@000328a8 biased_grouped_topk_impl",
     {.precision = Precision::kAll, .group_tie = Tie::kAny, .expert_tie = Tie::kAny,
      .scale_weights = ScaleWeights::kIfFlagAndRenorm, .shared_weights = SharedWeight::kPreRenorm,
      .order = SlotOrder::kAny, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("sglang_torch", o).sigmoid("sglang_torch_v2")
           .need(o.has_bias, "no bias", "is the biased function", "sglang_torch_v2")
           .shared_at_most(1, "fills the last slot alone, with one random chunk", "sglang_fused")
           .need(o.topk + o.shared <= o.topk_group * (o.experts / o.groups),
                 "topk+shared=" + number(o.topk + o.shared), "asks top-k for that many candidates",
                 "fewer, or sglang_fused").shared_renormalized()
           .keeps_factor(!o.scale_flag || o.renormalize, kDropsFactor,
                 "scale_flag=false and scale the output");
     }},
    {"sglang_torch_v2", "sglang torch grouped top-k without a bias, DeepSeek-V2",
     "sglang topk.py@000328a8 grouped_topk_gpu",
     {.precision = Precision::kAll, .group_tie = Tie::kAny, .expert_tie = Tie::kAny,
      .masked = Masked::kZero, .scale_weights = ScaleWeights::kIfFlagAndRenorm,
      .shared_weights = SharedWeight::kPreRenorm, .order = SlotOrder::kAny, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("sglang_torch_v2", o).scoring({Scoring::kSoftmax, Scoring::kSigmoid}, "sglang_triton")
           .no_bias("sglang_torch")
           .shared_at_most(1, "fills the last slot alone, with one random chunk", "sglang_fused")
           .need(o.topk + o.shared <= o.topk_group * (o.experts / o.groups),
                 "topk+shared=" + number(o.topk + o.shared), "asks top-k for that many candidates", "fewer")
           .shared_renormalized().keeps_factor(!o.scale_flag || o.renormalize, kDropsFactor,
                 "scale_flag=false and scale the output");
     }},
    // The shared columns are filled after the gate, every one with id E: with chunks that is n times chunk 0.
    {"sglang_flashinfer", "flashinfer noAuxTc through sglang",
     "flashinfer noAuxTcKernels.cu@0a17574e, sglang topk.py@000328a8",
     {.score_math = ScoreMath::kTanh, .epsilon = Epsilon::kAdd, .renorm = Renorm::kAlways,
      .scale_weights = ScaleWeights::kIfFlag, .shared_weights = SharedWeight::kPreRenorm,
      .shared_ids = SharedIds::kSame, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       const std::int64_t candidates = o.topk_group * (o.experts / o.groups);
       Ask ask("sglang_flashinfer", o);
       ask.power_of_two("sglang_kimi_small or vllm_cuda")
           .topk_at_most(8, "vllm_cuda")
           .sigmoid("sglang_torch_v2")
           .bias();
       if (o.groups == 1) ask.experts_at_most(384, "vllm_cuda");
       if (o.groups > 1) {
         ask.experts_at_most(256, "vllm_cuda").per_group_at_most(32, "vllm_cuda");
         ask.need(candidates <= 128, "candidates=" + number(candidates),
                  "takes at most 128 (E/G * topk_group)", "vllm_cuda");
         ask.need(o.topk_group <= 4, "topk_group=" + number(o.topk_group), "takes at most 4", "vllm_cuda");
         ask.need(o.topk_group * o.groups >= o.topk, "topk=" + number(o.topk),
                  "needs topk_group * groups >= topk", "sglang_fused");
       }
       return ask.shared_at_most(1, "gives every shared slot expert id E: chunk 0 for each", "sglang_fused")
           .renormalized(kIgnoresRenorm, "sglang_torch");
     }},
    {"sglang_kimi_small", "sglang single-group gate, up to 512 tokens", kUngrouped,
     {.expert_tie = Tie::kBitReversed, .epsilon = Epsilon::kGuard,
      .scale_weights = ScaleWeights::kIfFlagAndRenorm, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t tokens) -> Refusal {
       return kimi("sglang_kimi_small", o)
           .need(tokens <= 512, "tokens=" + number(tokens), "is the kernel for up to 512",
                 "sglang_kimi_large");
     }},
    {"sglang_kimi_large", "sglang single-group gate, above 512 tokens", kUngrouped,
     {.epsilon = Epsilon::kGuard, .scale_weights = ScaleWeights::kIfFlagAndRenorm,
      .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t tokens) -> Refusal {
       return kimi("sglang_kimi_large", o)
           .need(tokens > 512, "tokens=" + number(tokens), "is the kernel above 512", "sglang_kimi_small");
     }},
    {"sglang_jit", "sglang jit grouped_topk", "sglang jit_kernel/csrc/moe/grouped_topk.cuh@517d0ca3",
     {.epsilon = Epsilon::kAdd, .scale_weights = ScaleWeights::kAlways, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("sglang_jit", o).one_group("vllm_cuda").experts_at_most(512, "sglang_triton")
           .topk_at_most(8, "sglang_triton").sigmoid("sglang_topk_softmax").bias().f32_logits().f32_bias();
     }},
    // Ids come in score order, or in id order from its radix path. Softmax keeps the bias in the weight:
    // another operator.
    {"sglang_triton", "sglang Triton router", "sglang jit_kernel/moe_fused_gate.py@01553896",
     {.score_math = ScoreMath::kLog2, .group_score = GroupScore::kTop2Distinct, .epsilon = Epsilon::kGuard,
      .scale_weights = ScaleWeights::kIfFlag, .shared_weights = SharedWeight::kPreRenorm,
      .order = SlotOrder::kAny, .non_finite = NonFinite::kLowest, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("sglang_triton", o)
           .scoring({Scoring::kSigmoid, Scoring::kSqrtSoftplus}, "sglang_topk_softmax").bias().f32_bias()
           .shared_renormalized();
     }},
    // One shared slot of weight 1: right only because the routed weights hold routed_scaling_factor. Above
    // 256 experts and for counts that are no power of two a fallback starts its argmax at -1: choice scores
    // below that are a defect there.
    {"sglang_topk_sigmoid", "sglang topk_sigmoid", "sglang jit_kernel/csrc/moe/moe_topk_sigmoid.cuh@07a95796",
     {.epsilon = Epsilon::kAdd, .scale_weights = ScaleWeights::kIfRenorm,
      .shared_weights = SharedWeight::kUnitIfRenorm, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("sglang_topk_sigmoid", o).one_group("sglang_fused").sigmoid("sglang_topk_softmax")
           .f32_bias().shared_at_most(1, "writes one shared slot", "sglang_fused").shared_renormalized()
           .keeps_factor(o.renormalize, kDropsFactor, "routed_scaling_factor=1 and scale the output");
     }},
    {"sglang_topk_softmax", "sglang topk_softmax, powers of two", kTopkSoftmax,
     {.bias_on = BiasOn::kLogits, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return topk_softmax("sglang_topk_softmax", o).power_of_two("sglang_topk_softmax_any")
           .experts_at_most(512, "sglang_topk_softmax_any");
     }},
    // Extracts two winners per pass; equals go to the higher id.
    {"sglang_topk_softmax_any", "sglang topk_softmax, other counts of experts", kTopkSoftmax,
     {.bias_on = BiasOn::kLogits, .expert_tie = Tie::kHigh, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       const bool own = !std::has_single_bit(static_cast<std::uint64_t>(o.experts)) || o.experts > 512;
       return topk_softmax("sglang_topk_softmax_any", o)
           .need(own, "experts=" + number(o.experts), "is not the path of powers of two",
                 "sglang_topk_softmax")
           .need(o.topk > 1, "topk=1", "leaves it to an argmax that takes the lower id", "topk >= 2");
     }},
    {"vllm_torch", "vLLM torch grouped_topk", "vllm fused_moe/router/grouped_topk_router.py@55681666",
     {.precision = Precision::kAll, .group_tie = Tie::kAny, .expert_tie = Tie::kAny,
      .scale_weights = ScaleWeights::kAlways, .order = SlotOrder::kAny},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("vllm_torch", o).scoring({Scoring::kSigmoid, Scoring::kSoftmax}, "vllm_softplus");
     }},
    // With no finite group at all it writes ids 0..K-1 and 1/K; infinite logits count in the group scores and
    // not as candidates.
    {"vllm_cuda", "vLLM fused grouped top-k", "vllm csrc/moe/grouped_topk_kernels.cu@e35e4874",
     {.score_math = ScoreMath::kTanh, .precision = Precision::kSelect, .epsilon = Epsilon::kAdd,
      .scale_weights = ScaleWeights::kAlways, .non_finite = NonFinite::kFiniteOnly},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("vllm_cuda", o).groups_at_most(32, "vllm_torch").topk_at_most(32, "vllm_torch")
           .scoring({Scoring::kSigmoid, Scoring::kSoftmax}, "vllm_softplus").bias().bias_like_logits();
     }},
    {"vllm_topk_softmax", "vLLM topk_softmax",
     "vllm csrc/moe/topk_softmax_kernels.cu, fused_topk_router.py@04b27e94",
     {.non_finite = NonFinite::kLogitZero},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("vllm_topk_softmax", o).softmax("vllm_cuda").no_bias("sglang_topk_softmax")
           .one_group("vllm_torch")
           .keeps_factor(false, kNoFactor, "routed_scaling_factor=1 and scale the output");
     }},
    {"vllm_softplus", "vLLM topk_softplus_sqrt, DeepSeek-V4",
     "vllm csrc/moe/topk_softplus_sqrt_kernels.cu@0f5257e2",
     {.score_math = ScoreMath::kLog2, .weight_from = WeightFrom::kChoiceLessBias,
      .epsilon = Epsilon::kGuard, .scale_weights = ScaleWeights::kAlways,
      .non_finite = NonFinite::kScoreZero, .padding = Padding::kMinusOne},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       constexpr std::array<std::int64_t, 5> others = {192, 320, 384, 448, 576};
       // clang-format on
       const bool power = std::has_single_bit(static_cast<std::uint64_t>(o.experts)) && o.experts <= 512;
       return Ask("vllm_softplus", o)
           .scoring({Scoring::kSqrtSoftplus}, "vllm_cuda")
           .one_group("sglang_triton")
           .f32_bias()
           .need(power || std::find(others.begin(), others.end(), o.experts) != others.end(),
                 "experts=" + number(o.experts),
                 "has kernels for powers of two to 512, 192, 320, 384, 448 and 576", "aiter_gating");
     }},
    {"aiter_hip",
     "aiter biased_grouped_topk_hip",
     "aiter csrc/kernels/topk_softmax_kernels_group.cu@e4048607",
     {.bias_cast = BiasCast::kLogitsDtype,
      .group_tie = Tie::kAny,
      .expert_tie = Tie::kAny,
      .scale_weights = ScaleWeights::kAlways,
      .shared_weights = SharedWeight::kConstant,
      .order = SlotOrder::kAny},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       const std::int64_t per_group = o.experts / o.groups;
       return aiter("aiter_hip", o)
           .need(o.groups <= 8 && std::has_single_bit(static_cast<std::uint64_t>(o.groups)),
                 "groups=" + number(o.groups), "takes 1, 2, 4 or 8", "vllm_cuda")
           .need(o.groups == 1 || o.experts % 4 != 0 || per_group % 4 == 0,
                 "experts per group=" + number(per_group),
                 "loads four experts at a time across group borders", "a multiple of 4");
     }},
    {"aiter_sort",
     "aiter biased_grouped_topk_hip, sorting variant",
     "aiter csrc/kernels/topk_softmax_kernels_group.cu@e4048607",
     {.bias_cast = BiasCast::kLogitsDtype,
      .weight_from = WeightFrom::kChoiceLessBias,
      .group_tie = Tie::kAny,
      .expert_tie = Tie::kAny,
      .scale_weights = ScaleWeights::kIfRenorm,
      .shared_weights = SharedWeight::kConstant,
      .order = SlotOrder::kAny,
      .non_finite = NonFinite::kLowest},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       const bool fits = o.experts == 256 && o.groups == 8 && o.topk_group == 4 && o.topk == 8;
       return aiter("aiter_sort", o)
           .need(fits,
                 "experts/groups/topk_group/topk=" + number(o.experts) + "/" + number(o.groups) + "/" +
                     number(o.topk_group) + "/" + number(o.topk),
                 "is built for 256/8/4/8", "aiter_hip")
           .keeps_factor(o.renormalize, kDropsFactor, "aiter_hip");
     }},
    // Its scale never reaches the routed weights: above CU * 212 tokens they come out rsf times too small.
    {"aiter_bigm",
     "aiter moe_fused_gate, above CU * 212 tokens",
     "aiter csrc/kernels/moe_fused_gate.cu@e4048607",
     {.bias_cast = BiasCast::kLogitsDtype,
      .group_tie = Tie::kHigh,
      .renorm = Renorm::kAlways,
      .non_finite = NonFinite::kScoreZero},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return aiter("aiter_bigm", o)
           .per_group_at_most(32, "aiter_hip")
           .renormalized("asserts renormalization", "aiter_hip")
           .keeps_factor(false, kNoFactor, "aiter_hip, whose weights it should equal");
     }},
    {"aiter_gating",
     "aiter topk_gating",
     "aiter topk_gating kernels@e4048607",
     {.score_math = ScoreMath::kLog2,
      .expert_tie = Tie::kLane64,
      .epsilon = Epsilon::kMax,
      .scale_weights = ScaleWeights::kAlways,
      .non_finite = NonFinite::kLowest},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       const bool bias_fits = !o.has_bias || o.bias_dtype == DType::kF32 ||
                              (o.bias_dtype == DType::kBF16 && o.logits_dtype != DType::kF16);
       return Ask("aiter_gating", o)
           .one_group("aiter_hip")
           .topk_at_most(64, "vllm_torch")
           .need(bias_fits, "bias_dtype=" + std::string(name(o.bias_dtype)),
                 "takes f32, or bf16 unless the logits are f16", "bias_dtype=f32");
     }},
    // Qwen3-Next: the shared experts' gate logits are the row's last columns, scored by sigmoid, outside
    // renormalization.
    {"aiter_topk_softmax",
     "aiter topk_softmax with gated shared slots",
     "aiter csrc/kernels/topk_softmax_kernels.cu@e4048607",
     {.shared_weights = SharedWeight::kGated},
     [](const GatingOptions& o, std::int64_t) -> Refusal {
       return Ask("aiter_topk_softmax", o)
           .softmax("aiter_gating")
           .no_bias("aiter_gating")
           .one_group("vllm_torch")
           .need(o.shared <= 8 && !(o.shared & (o.shared - 1)), "shared=" + number(o.shared),
                 "takes 0, 1, 2, 4 or 8", "a power of two")
           .keeps_factor(false, kNoFactor, "routed_scaling_factor=1");
     }},
};
}  // namespace

std::span<const GatingPreset> gating_presets() { return kPresets; }

const GatingPreset* find_gating_preset(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kPresets), std::end(kPresets), [&](const auto& p) { return p.name == name; });
  return found == std::end(kPresets) ? nullptr : found;
}

}  // namespace moecheck::reference
