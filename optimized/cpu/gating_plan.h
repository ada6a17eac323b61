#pragma once
// What gating() works out once per call, and the memory one thread needs for a row. Internal.
#include <cstdint>
#include <vector>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/rounding.h"
#include "reference/gating.h"

namespace moecheck::MOECHECK_OPTIMIZED {

struct GatingPlan {
  explicit GatingPlan(const reference::GatingOptions& gating_options, ConstView bias_view, std::int64_t rows);

  reference::GatingOptions options;
  std::int64_t tokens = 0;
  std::int64_t padded_experts = 0;  // a multiple of four of the largest vectors
  bool renormalizes = false;
  bool scales = false;  // routed_scaling_factor multiplies the weights
  reference::GroupScore group_score = reference::GroupScore::kMax;
  DType score_dtype = DType::kF32, choice_dtype = DType::kF32, weight_dtype = DType::kF32;
  AlignedFloats bias;  // fp32, zeros without one
  // Candidates are compared by value, then by position: order[position] is the expert (group) there. Empty:
  // position = index.
  std::vector<std::int32_t> expert_order, group_order;
};

// Rows of padded_experts. Behind the last expert: logits -Inf, keys that nothing selects.
struct GatingScratch {
  explicit GatingScratch(const GatingPlan& plan);

  AlignedFloats logit, score, choice, group;
  AlignedInts key, ordered_key;
  std::vector<std::int32_t> ids;      // [topk]
  std::vector<std::uint8_t> allowed;  // [groups]
};

// Scores, choice scores and ids of one row (gating_select.cpp).
using GatingSelect = void (*)(const GatingPlan& plan, ConstView router_logits, std::int64_t row,
                              GatingScratch& scratch);
GatingSelect gating_select();
// sigmoid(x) as the experts' scores are computed, for gated shared slots.
using VectorSigmoid = float (*)(float x);
VectorSigmoid vector_sigmoid();

// Weights and ids of all slots of one row (gating_weights.cpp).
void gating_write(const GatingPlan& plan, ConstView router_logits, std::int64_t row,
                  const GatingScratch& scratch, View topk_weights, View topk_ids);

}  // namespace moecheck::MOECHECK_OPTIMIZED
