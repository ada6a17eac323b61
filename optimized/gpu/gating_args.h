#pragma once
// What the gating kernels are given: reference/gating.h's options, resolved on the host, as plain numbers. Internal.
#include <bit>
#include <cstdint>

#include "optimized/fault.h"
#include "reference/gating.h"

namespace moecheck::MOECHECK_OPTIMIZED {

struct GatingArgs {
  const void* router_logits = nullptr;  // [tokens, columns]
  const void* bias = nullptr;           // [experts], or nullptr
  float* topk_weights = nullptr;        // [tokens, topk + shared]
  void* topk_ids = nullptr;             // [tokens, topk + shared]
  std::int64_t tokens = 0, first_padded = 0;
  std::int32_t columns = 0, experts = 0, groups = 1, group_size = 0, group_shift = 0, topk_group = 1,
               topk = 0, shared = 0;
  reference::DType logits_dtype{}, bias_dtype{};
  // What is rounded to which dtype: scores, choice scores and group sums, each step of the weights. kF32: not.
  reference::DType score_dtype{}, choice_dtype{}, weight_dtype{};
  reference::Scoring scoring{};
  reference::GroupScore group_score{};  // resolved
  reference::Tie group_tie{}, expert_tie{};
  reference::Epsilon epsilon{};
  reference::SharedWeight shared_weights{};
  reference::NonFinite non_finite{};
  reference::Padding padding{};
  bool ids_are_64_bit = false;
  bool bias_on_choice = false, bias_on_logits = false,
       bias_as_logits = false;      // added where; rounded to the logits' dtype
  bool weight_from_choice = false;  // (s + b) - b
  bool masked_is_zero = false;
  bool renormalizes = false, scales = false;
  bool same_shared_id = false, order_by_id = false;
  bool vectors = false;  // rows of logits, and the bias, may be read 16 (8) bytes at a time
  float routed_scaling_factor = 1, shared_weight = 1;
};

inline GatingArgs gating_args(const reference::GatingOptions& o, reference::ConstView router_logits,
                              reference::ConstView bias, reference::View topk_weights,
                              reference::View topk_ids) {
  using namespace reference;  // NOLINT
  const Gating gating(o);
  const GatingPolicy& p = o.policy;
  GatingArgs a;
  a.router_logits = router_logits.data;
  a.bias = o.has_bias ? bias.data : nullptr;
  a.topk_weights = topk_weights.as<float>();
  a.topk_ids = topk_ids.data;
  a.tokens = topk_ids.shape[0];
  a.first_padded = p.padding == Padding::kCompute ? a.tokens : a.tokens - o.padded_tokens;
  a.columns = static_cast<std::int32_t>(o.logit_columns());
  a.experts = static_cast<std::int32_t>(o.experts);
  a.groups = static_cast<std::int32_t>(o.groups);
  a.group_size = a.experts / a.groups;
  a.group_shift = std::countr_zero(static_cast<std::uint32_t>(a.group_size));  // log2, of a power of two
  a.topk_group = static_cast<std::int32_t>(o.topk_group);
  a.topk = static_cast<std::int32_t>(o.topk);
  a.shared = static_cast<std::int32_t>(o.shared);
  a.logits_dtype = o.logits_dtype;
  a.bias_dtype = o.bias_dtype;
  a.bias_on_choice = a.bias != nullptr && p.bias_on == BiasOn::kChoice;
  a.bias_on_logits = a.bias != nullptr && p.bias_on == BiasOn::kLogits;
  a.bias_as_logits = p.bias_cast == BiasCast::kLogitsDtype;
  a.score_dtype = p.precision == Precision::kF32 ? DType::kF32 : o.logits_dtype;
  a.choice_dtype = DType::kF32;
  if (p.precision == Precision::kSelect || p.precision == Precision::kAll) {
    const bool own_bias = a.bias_on_choice && !a.bias_as_logits;
    a.choice_dtype = !own_bias || o.bias_dtype == o.logits_dtype ? o.logits_dtype : DType::kF32;
  }
  a.weight_dtype = p.precision == Precision::kAll ? o.logits_dtype : DType::kF32;
  a.scoring = o.scoring;
  a.group_score = gating.group_score();
  a.group_tie = p.group_tie;
  a.expert_tie = p.expert_tie;
  a.epsilon = p.epsilon;
  a.shared_weights = p.shared_weights;
  a.non_finite = p.non_finite;
  a.padding = p.padding;
  a.ids_are_64_bit = topk_ids.dtype == DType::kI64;
  a.weight_from_choice = p.weight_from == WeightFrom::kChoiceLessBias && a.bias_on_choice;
  a.masked_is_zero = p.masked == Masked::kZero;
  a.renormalizes = gating.renormalizes();
  a.scales = gating.scales_weights();
  a.same_shared_id = p.shared_ids == SharedIds::kSame;
  a.order_by_id = p.order == SlotOrder::kId;
  a.routed_scaling_factor = static_cast<float>(o.routed_scaling_factor);
  a.shared_weight = static_cast<float>(o.shared_weight);
  const auto aligned = [](const void* p16) { return reinterpret_cast<std::uintptr_t>(p16) % 16 == 0; };
  a.vectors = aligned(a.router_logits) && aligned(a.bias) && a.columns * size_bytes(a.logits_dtype) % 16 == 0;
  return a;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
