#pragma once
// The GLM-4-MoE decoder (GLM-4.5, 4.6, 4.7), operator by operator, and the whole model in scalar code.
//
//   x    = embed[id]
//   x   += attention(rms_norm(x))                                     every layer
//   x   += mlp(rms_norm(x))              layers < first_k_dense_replace: D (silu(G x) * (U x))
//   x   += moe_block(rms_norm(x))        the others                    moe_block.h, gate of transformers
//   logits = head rms_norm(x)
//
//   attention: q, k, v = W x + b; per head q, k = rms_norm(q), rms_norm(k) (use_qk_norm); the first
//   rotary_dim = head_dim * partial_rotary_factor dimensions are rotated in half-split (NeoX) pairs by
//   pos * theta^(-2i / rotary_dim); out = W_o softmax(q k^T / sqrt(head_dim)) v over positions <= its own; query
//   head h reads key head h / (heads / kv_heads).
//
//   MTP (next-n layer, drafts token t + 2):
//   y = layer(eh_proj [rms_norm(embed[id_{t+1}]), rms_norm(h_t)]),  logits = shared_head rms_norm(y)
//   where h_t is the model's hidden state after its last norm.
//
// Source: transformers' modeling of Glm4Moe and the published checkpoints; the MTP layer as vLLM and SGLang load it.
// Every operator takes stored numbers (dtype T: f32, or bf16) and returns what an honest implementation of that dtype
// may compute, before the last rounding: judge an implementation operator by operator, each from its own inputs.
// The bounds of bf16 leave open where it rounds on the way.
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reference/bounded.h"
#include "reference/moe_block.h"
#include "reference/tensor.h"

namespace moecheck::reference {

struct Glm4MoeConfig {
  std::int64_t vocab = 0, hidden = 0, intermediate = 0, moe_intermediate = 0;
  std::int64_t layers = 0, first_dense = 0, mtp_layers = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t experts = 0, shared_experts = 0, topk = 0, groups = 1, topk_group = 1;
  std::int64_t max_positions = 0;
  double routed_scaling_factor = 1, rms_norm_eps = 1e-5, rope_theta = 10000, partial_rotary_factor = 0.5;
  bool norm_topk_prob = true, qk_norm = true, attention_bias = true;

  std::int64_t rotary_dim() const;
  std::int64_t q_dim() const { return heads * head_dim; }
  std::int64_t kv_dim() const { return kv_heads * head_dim; }
  bool is_dense(std::int64_t layer) const { return layer < first_dense; }
};

// Why no model can look like that ("heads=8 is not a multiple of kv_heads=3"), or nothing.
std::optional<std::string> refusal(const Glm4MoeConfig& config);

// Matrices are [out, in] as checkpoints have them, in any stored dtype; gate and up are stacked, gate first.
struct AttentionWeights {
  ConstView q, k, v, o;                 // [q_dim, H], [kv_dim, H], [kv_dim, H], [H, q_dim]
  ConstView q_bias, k_bias, v_bias;     // absent without attention_bias
  ConstView q_norm, k_norm;             // [head_dim], absent without qk_norm
};
struct MlpWeights {
  ConstView gate_up, down;  // [2I, H], [H, I]
};
struct MoeWeights {
  ConstView router, bias;     // [E, H], [E] f32
  ConstView w13, w2;          // [E, 2I, H], [E, H, I]
  MlpWeights shared;          // of n * I
};
struct Glm4MoeLayerWeights {
  ConstView input_norm, post_norm;  // [H]
  AttentionWeights attention;
  MlpWeights dense;                 // dense layers
  MoeWeights moe;                   // the others
};
struct MtpWeights {
  ConstView embed, embed_norm, hidden_norm, eh_proj, norm, head;  // [V, H], [H], [H], [H, 2H], [H], [V, H]
  Glm4MoeLayerWeights layer;
};
struct Glm4MoeWeights {
  ConstView embed, norm, head;  // [V, H], [H], [V, H]
  std::vector<Glm4MoeLayerWeights> layers;
  std::optional<MtpWeights> mtp;
};

// ---- Operators. x [T, H] in dtype T.

// x / sqrt(mean(x^2) + eps) * weight, over rows of x.
std::vector<Bounded> rms_norm(ConstView x, ConstView weight, double eps);
// weight x, [T, out]. (Router logits, head, eh_proj.)
std::vector<Bounded> linear(ConstView x, ConstView weight);
// D (silu(G x) * (U x)), [T, H].
std::vector<Bounded> gated_mlp(ConstView x, const MlpWeights& weights);
// Causal self-attention over the rows of x, which stand at positions 0, 1, ...: [T, H].
std::vector<Bounded> attention(const Glm4MoeConfig& config, const AttentionWeights& weights, ConstView x);
// The MoE block with transformers' gate on the router logits [T, E] f32.
MoeBlockResult glm4_moe_block(const Glm4MoeConfig& config, const MoeWeights& weights, ConstView x,
                              ConstView router_logits);

// ---- The whole model

// What one operator read and wrote, as numbers of T.
struct OperatorTrace {
  std::int64_t layer = 0;  // config.layers: the MTP layer; -1: after the last layer
  std::string name;        // input_norm, attention, post_norm, mlp, router, moe_block, norm, head
  std::vector<double> input, output;
};
struct ForwardOptions {
  DType dtype = DType::kF32;
  // Adds noise to each operator's output: `noise` times its sigma, normal, from `seed`. An ensemble of such runs shows how
  // far honest implementations of the whole model are apart (stochastic arithmetic; Vignes 1993).
  double noise = 0;
  std::uint64_t seed = 0;
  std::function<void(const OperatorTrace&)> trace;  // called for every operator in order
};
struct ForwardResult {
  std::vector<double> logits;  // [T, V]
  std::vector<double> hidden;  // [T, H] after the last norm: what the MTP layer reads
};
// Throws std::invalid_argument for ids outside the vocabulary and sequences beyond max_positions.
ForwardResult glm4_moe_forward(const Glm4MoeConfig& config, const Glm4MoeWeights& weights,
                               std::span<const std::int32_t> ids, const ForwardOptions& options = {});
// Logits [T - 1, V] of the MTP layer: row t drafts the token at t + 2. `hidden` [T, H] of a forward over `ids`.
std::vector<double> glm4_moe_draft(const Glm4MoeConfig& config, const Glm4MoeWeights& weights,
                                   std::span<const std::int32_t> ids, std::span<const double> hidden,
                                   const ForwardOptions& options = {});

// Mean and spread of an ensemble of `samples` noisy forwards: what honest fp32 (bf16) implementations agree on.
struct LogitSpread {
  std::vector<double> value, sigma;  // [T, V]
};
LogitSpread glm4_moe_spread(const Glm4MoeConfig& config, const Glm4MoeWeights& weights,
                            std::span<const std::int32_t> ids, DType dtype, int samples, std::uint64_t seed);

}  // namespace moecheck::reference
