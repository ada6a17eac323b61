#pragma once
// The last part of the gating kernels: lane k weighs slot k, and writes it.
#include "optimized/gpu/gating_select.h"

namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels {

using reference::Epsilon;
using reference::Padding;
using reference::SharedWeight;

GPU_DEVICE void store_id(const GatingArgs& a, std::int64_t i, int id) {
  if (a.ids_are_64_bit)
    static_cast<std::int64_t*>(a.topk_ids)[i] = id;
  else
    static_cast<std::int32_t*>(a.topk_ids)[i] = id;
}

GPU_DEVICE float divisor(Epsilon epsilon, float sum) {
  if (epsilon == Epsilon::kAdd) return sum + 1e-20F;
  if (epsilon == Epsilon::kMax) return larger(sum, 1e-20F);
  if (epsilon == Epsilon::kGuard) return sum > 0 ? sum : 1.0F;
  return sum;
}

// Every step rounds to the weights' dtype where the policy computes in it.
struct RowWeights {
  const GatingArgs& a;
  float sum;

  GPU_DEVICE float step(float v) const { return round_dtype(a.weight_dtype, v); }
  GPU_DEVICE float scaled(float w) const { return a.scales ? step(w * a.routed_scaling_factor) : w; }
  // w / D(S), * rsf where the policy has it
  GPU_DEVICE float routed(float w) const {
    return scaled(a.renormalizes ? step(fast_divide(w, divisor(a.epsilon, sum))) : w);
  }
  // gate: the slot's own logit (kGated)
  GPU_DEVICE float shared(float gate) const {
    switch (a.shared_weights) {
      case SharedWeight::kNone:
        return 0;
      case SharedWeight::kUnit:
        return 1;
      case SharedWeight::kConstant:
        return a.shared_weight;
      case SharedWeight::kGated:
        return round_dtype(a.score_dtype, score_of(Scoring::kSigmoid, gate, {}));
      case SharedWeight::kUnitIfRenorm:
        return a.renormalizes ? 1.0F : step(sum / a.routed_scaling_factor);
      case SharedWeight::kPreRenorm:
        break;
    }
    const float w = step(sum / a.routed_scaling_factor);
    return scaled(a.renormalizes ? step(w / divisor(a.epsilon, sum)) : w);
  }
};

// The weight before renormalization: the unbiased score, as the policy finds it. `allowed`: the expert's group is selected.
GPU_DEVICE float raw_weight(const GatingArgs& a, std::int64_t row, int id, Softmax softmax, bool allowed) {
  if (!allowed && a.bias == nullptr) return 0;
  const float s = score_again(a, row, id, softmax);
  if (!a.weight_from_choice) return s;
  const float b = bias_of(a, id);
  return larger(b, -b) < infinity() ? (s + b) - b : s;  // a dead expert that won as a masked candidate
}

template <int W>
GPU_DEVICE void write_padding(const GatingArgs& a, std::int64_t row) {
  const int slots = a.topk + a.shared;
  GATING_ROLLED for (int k = lane<W>(); k < slots; k += W) {
    a.topk_weights[row * slots + k] = 0;
    store_id(a, row * slots + k, a.padding == Padding::kMinusOne ? -1 : 0);
  }
}

// The sum over the lanes of slots: of eight where all are among them, the others hold 0.
template <int W>
GPU_DEVICE float sum_of_slots(const GatingArgs& a, float v) {
  if (a.topk > (GPU_FAULT(kGpuSumOfEight) ? 16 : 8) || a.shared > 8) return wave_sum<W>(v);
  GPU_UNROLL for (int step = 4; step > 0; step /= 2) v += shfl_xor<W>(v, step);
  return v;
}

// id: of lane k the expert of slot k. allowed: whether that expert's group is selected.
template <int W>
GPU_DEVICE void write_row(const GatingArgs& a, std::int64_t row, int id, bool allowed, Softmax softmax) {
  const int me = lane<W>(), slots = a.topk + a.shared;
  const std::int64_t first = row * slots;
  const bool routed = me < a.topk;
  const int weighed = GPU_FAULT(kGpuIdWeightPairing) ? shfl<W>(id, (me + 1) % a.topk) : id;
  const float w = routed ? raw_weight(a, row, weighed, softmax, allowed) : 0.0F;
  const RowWeights weights{a, round_dtype(a.weight_dtype, sum_of_slots<W>(a, w))};
  int slot = me;
  if (a.order_by_id) {
    slot = 0;
    GATING_ROLLED for (int k = 0; k < a.topk; ++k) slot += shfl<W>(id, k) < id;
  }
  if (routed) {
    a.topk_weights[first + slot] = weights.routed(w);
    store_id(a, first + slot, id);
  }
  GATING_ROLLED for (int i = me; i < a.shared; i += W) {
    const bool gated = a.shared_weights == SharedWeight::kGated;
    const float gate =
        gated ? load_number(a.logits_dtype, a.router_logits, row * a.columns + a.experts + i) : 0.0F;
    a.topk_weights[first + a.topk + i] = weights.shared(gate);
    store_id(a, first + a.topk + i, a.experts + (a.same_shared_id ? 0 : i));
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels
