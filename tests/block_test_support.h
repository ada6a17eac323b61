#pragma once
// A small MoE block for tests, with its shared experts beside the routed ones or fused among them.
#include "reference/moe_block.h"
#include "tests/moe_test_support.h"

namespace moecheck::reference {

inline constexpr double kRsf = 2.827;

struct BlockCase {
  std::int64_t tokens = 3;
  MoeBlockOptions options;
  WeightTensor x, logits, bias, w13, w2, shared_w13, shared_w2, shared_gate;

  MoeBlockInputs inputs() const {
    MoeBlockInputs in;
    in.hidden_states = x.view(), in.router_logits = logits.view(), in.e_score_correction_bias = bias.view();
    in.experts = {w13.view(), w2.view(), {}, {}};
    in.shared_w13 = shared_w13.view(), in.shared_w2 = shared_w2.view(), in.shared_gate = shared_gate.view();
    return in;
  }
  MoeBlockResult run() const { return moe_block(inputs(), options); }
};

// Unfused, scaled in the reduce kernel.
inline BlockCase block_case(DType dtype, std::int64_t shared, Rng& rng, std::int64_t tokens = 3) {
  constexpr std::int64_t kExperts = 8, kHidden = 24, kIntermediate = 12;
  BlockCase c;
  c.tokens = tokens;
  MoeBlockOptions& o = c.options;
  o.gating.experts = kExperts, o.gating.topk = 3;
  o.gating.routed_scaling_factor = o.combine.routed_scaling_factor = kRsf;
  o.experts.hidden = kHidden, o.experts.intermediate = kIntermediate, o.experts.dtype = dtype;
  o.experts.activation.round_silu = Rounding::kRound;
  o.shared_experts = shared;
  const double in = 2 / std::sqrt(24.0), out = 1 / std::sqrt(12.0);
  c.x = normal_tensor(dtype, Shape(tokens, kHidden), rng);
  c.logits = normal_tensor(DType::kF32, Shape(tokens, kExperts), rng);
  c.bias = normal_tensor(DType::kF32, Shape(kExperts), rng, 0.1);
  c.w13 = normal_tensor(dtype, Shape(kExperts, 2 * kIntermediate, kHidden), rng, in);
  c.w2 = normal_tensor(dtype, Shape(kExperts, kHidden, kIntermediate), rng, out);
  c.shared_w13 = normal_tensor(dtype, Shape(2 * shared * kIntermediate, kHidden), rng, in);
  c.shared_w2 = normal_tensor(dtype, Shape(kHidden, shared * kIntermediate), rng, out);
  c.shared_gate = normal_tensor(dtype, Shape(1, kHidden), rng, 0.3);
  return c;
}

inline WeightTensor rows_of(const WeightTensor& matrix, std::int64_t begin, std::int64_t end) {
  WeightTensor part(matrix.dtype, Shape(end - begin, matrix.shape[1]));
  const std::size_t row = matrix.bytes.size() / static_cast<std::size_t>(matrix.shape[0]);
  std::copy_n(matrix.bytes.data() + row * static_cast<std::size_t>(begin), part.bytes.size(),
              part.bytes.data());
  return part;
}

inline std::vector<SharedSlot> shared_slots(const BlockCase& c) {
  const std::int64_t fat = c.options.shared_experts * c.options.experts.intermediate;
  SharedExpertWeights w;
  w.gate = rows_of(c.shared_w13, 0, fat), w.up = rows_of(c.shared_w13, fat, 2 * fat), w.down = c.shared_w2;
  return split_shared_experts(w, c.options.shared_experts, c.options.experts.intermediate);
}

// The same block with its shared experts as slots E.. of the experts' tensors.
enum class Fusion { kAppend, kVllm, kGatePreDivided, kGateScaled };
inline BlockCase fused(const BlockCase& unfused, Fusion fusion, const std::vector<SharedSlot>& slots) {
  BlockCase c = unfused;
  MoeBlockOptions& o = c.options;
  for (const SharedSlot& slot : slots) {
    c.w13.bytes.insert(c.w13.bytes.end(), slot.w13.bytes.begin(), slot.w13.bytes.end());
    c.w2.bytes.insert(c.w2.bytes.end(), slot.w2.bytes.begin(), slot.w2.bytes.end());
    ++c.w13.shape.dim[0], ++c.w2.shape.dim[0];
  }
  o.fused = true;
  o.combine.plan = ScalePlan{};
  o.combine.plan.fused_shared = true;
  o.gating.policy.scale_weights = ScaleWeights::kAlways;
  if (fusion == Fusion::kAppend || fusion == Fusion::kVllm) {
    o.insertion = fusion == Fusion::kAppend ? SlotInsertion::kAiterAppend : SlotInsertion::kVllmRocm;
    return c;
  }
  o.gating.shared = o.shared_experts;
  o.gating.policy.shared_weights = SharedWeight::kPreRenorm;
  if (fusion == Fusion::kGateScaled) return c;
  o.gating.policy.scale_weights = ScaleWeights::kNever;
  o.combine.plan = o.combine.plan.with(ScalePlace::kReduce);
  return c;
}

inline bool compatible(const std::vector<Bounded>& a, const std::vector<Bounded>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::fabs(a[i].value - b[i].value) <= a[i].proven + b[i].proven)) return false;
  return a.size() == b.size();
}

}  // namespace moecheck::reference
