// Policies of moe_block: a project's gate, its kernels' roundings, and where it multiplies.
#include "harness/operators/experts.h"
#include "harness/operators/moe_block.h"

namespace moecheck::harness {
namespace {

const FieldValues kStored = {{"round_sum", "none"},
                             {"round_reduced", "round"},
                             {"round_scaled", "round"},
                             {"round_shared_gate", "round"}};

Preset policy(std::string name, std::string doc, std::string_view kernel, const FieldValues& more) {
  FieldValues values = kernel_fields(kernel);
  if (kernel != "any") values.insert(values.end(), kStored.begin(), kStored.end());
  values.insert(values.end(), more.begin(), more.end());
  return {std::move(name), std::move(doc), std::move(values)};
}

}  // namespace

std::vector<Preset> moe_block_policies() {
  return {
      policy("any", "gate of transformers, roundings on the way unknown", "any",
             {{"gate", "hf_deepseek_v3"}, {"place", "topk_weights"}}),
      policy("hf_deepseek_v3",
             "transformers DeepSeek-V3 and GLM-4-MoE: factor in the weights, experts one after the other",
             "triton",
             {{"gate", "hf_deepseek_v3"},
              {"place", "topk_weights"},
              {"order", "expert"},
              {"round_slot", "none"}}),
      policy("hf_deepseek_v2", "transformers DeepSeek-V2: softmax, no bias, not renormalized", "triton",
             {{"gate", "hf_deepseek_v2"},
              {"place", "topk_weights"},
              {"scoring", "softmax"},
              {"bias", "none"},
              {"renormalize", "0"},
              {"order", "expert"}}),
      policy("hf_qwen3_next", "transformers Qwen3-Next: softmax, gated shared expert", "triton",
             {{"gate", "hf_qwen3_next"},
              {"place", "topk_weights"},
              {"scoring", "softmax"},
              {"bias", "none"},
              {"rsf", "1"},
              {"shared_gate", "1"}}),
      policy("sglang_cuda", "sglang on CUDA: gate kernel, Triton experts, factor in the reduce", "triton",
             {{"gate", "sglang_fused"}, {"place", "reduce"}}),
      policy("sglang_cuda_fused", "the same with fused shared slots of weight 1/rsf", "triton",
             {{"gate", "sglang_fused"}, {"place", "reduce"}, {"fused", "1"}}),
      policy("sglang_topk_fused", "fused shared slots and the factor in top-k", "fused_f32",
             {{"gate", "sglang_fused"}, {"place", "topk_weights_and_shared"}, {"fused", "1"}}),
      policy("sglang_compile", "up to 32 tokens: the sum is rounded before it is multiplied", "triton",
             {{"gate", "sglang_jit"}, {"place", "reduce"}, {"round_sum", "round"}}),
      policy("sglang_deepep", "shared.add_(routed, alpha=rsf)", "triton",
             {{"gate", "sglang_triton"}, {"place", "shared_add_alpha"}}),
      policy("sglang_model", "no CUDA and no aiter: the model multiplies", "triton",
             {{"gate", "sglang_torch"}, {"place", "output"}}),
      policy("sglang_hip_aiter", "sglang on HIP with aiter, fused shared slots appended with weight 1",
             "fused_f32",
             {{"gate", "aiter_hip"},
              {"place", "topk_weights"},
              {"fused", "1"},
              {"insertion", "aiter_append"},
              {"round_slot", "round"}}),
      policy("vllm_cuda", "vLLM on CUDA: the runner multiplies", "triton",
             {{"gate", "vllm_cuda"}, {"place", "runner"}}),
      policy("vllm_router", "vLLM with apply_routed_scale_to_output=False: the router multiplies", "triton",
             {{"gate", "vllm_cuda"}, {"place", "topk_weights"}}),
      policy("vllm_fp16", "fp16: the shared output is divided, and so is the residual stream", "triton",
             {{"gate", "vllm_cuda"}, {"place", "runner_half"}, {"dtype", "f16"}}),
      policy("vllm_moe_sum", "moe_sum for topk 2 to 4: slots are added in T", "triton",
             {{"gate", "vllm_cuda"}, {"place", "runner"}, {"accumulate", "dtype"}}),
      policy("vllm_aiter_fused", "vLLM on ROCm: fused shared slots in prefilled buffers", "fused_f32",
             {{"gate", "aiter_hip"},
              {"place", "topk_weights"},
              {"fused", "1"},
              {"insertion", "vllm_rocm"},
              {"round_slot", "round"}}),
      policy("vllm_fp8", "w8a8 in blocks of 128", "triton",
             {{"gate", "vllm_cuda"},
              {"place", "runner"},
              {"quant", "fp8_block"},
              {"division", "divide"},
              {"nan_saturates", "1"}}),
      policy(
          "sglang_fp8", "w8a8 in blocks of 128, factor in the reduce", "triton",
          {{"gate", "sglang_jit"}, {"place", "reduce"}, {"quant", "fp8_block"}, {"division", "reciprocal"}}),
      policy("deepseek_v4", "vLLM DeepSeek-V4: sqrtsoftplus, routed experts clamp, shared ones do not",
             "fused_f32",
             {{"gate", "vllm_softplus"},
              {"place", "topk_weights"},
              {"scoring", "sqrtsoftplus"},
              {"rsf", "1.5"},
              {"clamp", "before_silu"},
              {"limit", "10"},
              {"shared_clamp", "none"}}),
      policy("qwen3_next_fused", "gated shared slot appended", "fused_f32",
             {{"gate", "vllm_topk_softmax"},
              {"place", "topk_weights"},
              {"scoring", "softmax"},
              {"bias", "none"},
              {"rsf", "1"},
              {"shared_gate", "1"},
              {"fused", "1"},
              {"insertion", "gated"}}),
  };
}

}  // namespace moecheck::harness
