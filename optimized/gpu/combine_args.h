#pragma once
// What the combine kernels are given: options resolved on the host, as plain numbers. Internal.
//
//   v = sum_i w_i row_i      then step by step: v = round?(v) * factor      then v + shared * shared_factor
#include <cstdint>

#include "optimized/fault.h"
#include "reference/moe_align.h"
#include "reference/routed_scaling.h"

namespace moecheck::MOECHECK_OPTIMIZED {

struct CombineStep {
  bool round_before;
  float factor;
};

struct CombineArgs {
  const void* rows = nullptr;                  // [.., hidden]: slot t*K + k in row t*K + k, or where row_of_slot says
  const float* weights = nullptr;              // [tokens, topk], or nullptr: 1
  const void* ids = nullptr;                   // [tokens, topk]: negative ones take no part
  const std::int32_t* row_of_slot = nullptr;   // instead of ids; rows outside [0, row_count) take no part
  const void* shared = nullptr;                // [tokens, hidden], or nullptr
  void* out = nullptr;                         // [tokens, hidden]
  std::int64_t tokens = 0, row_count = 0;
  std::int32_t topk = 0, hidden = 0;
  std::int32_t parts = 0;  // blocks of a token
  reference::DType rows_dtype{}, shared_dtype{}, out_dtype{}, round_dtype{};
  bool ids_are_64_bit = false, k_major = false;
  bool by_expert = false;  // slots are added in the order of their ids
  bool round_term = false, accumulate_in_dtype = false, first_is_rounded = true;
  std::int32_t step_count = 0;
  CombineStep steps[5] = {};
  float shared_factor = 1;
  bool round_shared = false;

  void add_step(bool round_before, float factor) { steps[step_count++] = {round_before, factor}; }
};

// Which steps follow from the places that are active; where a policy leaves a rounding open (kAny) there is none. `pending` is the
// rounding of what the last step stores: it is done where a next step reads it.
inline void add_combine_steps(const reference::CombineOptions& o, bool has_shared, CombineArgs& a) {
  using reference::Rounding;
  using reference::ScalePlace;
  const auto rounds = [](Rounding r) { return r == Rounding::kRound; };
  const bool output = o.plan.has(ScalePlace::kOutput), alpha = o.plan.has(ScalePlace::kSharedAddAlpha),
             runner = o.plan.has(ScalePlace::kRunner);
  const auto rsf = static_cast<float>(o.routed_scaling_factor);
  if (o.plan.has(ScalePlace::kReduce)) a.add_step(rounds(o.round_sum), rsf);
  bool pending = (output || alpha || runner || has_shared) && rounds(o.round_reduced);
  if (output) {
    a.add_step(pending, rsf);
    pending = (alpha || runner || has_shared) && rounds(o.round_scaled);
  }
  if (runner && o.plan.half_runner && has_shared) {
    a.shared_factor = static_cast<float>(1 / o.routed_scaling_factor);
    a.round_shared = rounds(o.round_scaled);
  } else if (runner) {
    a.add_step(pending, rsf);
    pending = (alpha || has_shared) && rounds(o.round_scaled);
  }
  if (alpha) {
    a.add_step(pending, rsf);
    pending = false;
  }
  if (pending) a.add_step(true, 1);
}

inline CombineArgs combine_args(const reference::CombineOptions& o, const reference::CombineInputs& in,
                                reference::View out) {
  CombineArgs a;
  a.rows = in.routed_output.data;
  a.weights = o.weights_applied ? nullptr : in.topk_weights.as<float>();
  a.ids = in.topk_ids.data;
  a.shared = in.shared_output.data;
  a.out = out.data;
  a.tokens = out.shape[0];
  a.topk = static_cast<std::int32_t>(in.routed_output.shape[1]);
  a.hidden = static_cast<std::int32_t>(in.routed_output.shape[2]);
  a.rows_dtype = in.routed_output.dtype;
  a.shared_dtype = in.shared_output.dtype;
  a.out_dtype = out.dtype;
  a.round_dtype = o.dtype;
  a.ids_are_64_bit = in.topk_ids.dtype == reference::DType::kI64;
  a.by_expert = o.reduce.order == reference::ReduceOrder::kExpert;
  a.round_term = o.round_weighted == reference::Rounding::kRound;
  a.accumulate_in_dtype = o.reduce.accumulate == reference::Accumulate::kDtype;
  // In an order that is not promised n terms are n - 1 additions; else the first is added to 0.
  a.first_is_rounded = o.reduce.order != reference::ReduceOrder::kAny;
  add_combine_steps(o, a.shared != nullptr, a);
  return a;
}

inline CombineArgs unpermute_args(const reference::PermuteOptions& o, reference::ConstView permuted,
                                  reference::ConstView topk_weights, reference::ConstView row_of_slot,
                                  reference::View out) {
  CombineArgs a;
  a.rows = permuted.data;
  a.weights = topk_weights.as<float>();
  a.row_of_slot = row_of_slot.as<std::int32_t>();
  a.out = out.data;
  a.tokens = out.shape[0];
  a.row_count = permuted.shape[0];
  a.topk = static_cast<std::int32_t>(o.topk);
  a.hidden = static_cast<std::int32_t>(permuted.shape[1]);
  a.rows_dtype = permuted.dtype;
  a.out_dtype = out.dtype;
  a.k_major = o.index == reference::SlotIndex::kKMajor;
  return a;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
