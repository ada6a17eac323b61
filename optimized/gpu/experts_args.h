#pragma once
// What the experts' kernels are given: the options of reference/experts.h, resolved on the host, as plain numbers. Internal;
// moe_block runs the same kernels.
#include <algorithm>
#include <cstdint>

#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/experts.h"
#include "reference/routed_scaling.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Up to this many slots blocks find the slots of their expert themselves; past it they are grouped first.
inline constexpr std::int64_t kFewSlots = 128;
inline constexpr std::int64_t kScaleBlock = 128;
inline constexpr int kMatrixTile = 16, kRunSlots = 64;  // slots of one expert that one block takes, at most

// From a slot to the expert of this rank that computes it.
struct SlotMap {
  const void* ids = nullptr;  // [slots], or nullptr: every slot is expert 0
  const void* map = nullptr;  // [map_size], or nullptr: experts are dealt in ranges
  std::int64_t map_size = 0, experts = 1, local_experts = 1;
  std::int64_t first = 0, own = 1,
               routed = 1;  // ids [first, first + own) are local 0.., ids routed.. follow them
  bool ids_are_64_bit = false, map_is_64_bit = false;
};

// reference/activation.h
struct ActivationArgs {
  reference::GateUpLayout layout{};
  reference::Activation activation{};
  reference::Clamp clamp{};  // kNone where the limit is no limit
  reference::DType dtype{};
  float limit = 0, alpha = 0;
  bool round_input = false, round_silu = false, round_product = false;
};

// reference/fp8_block.h
struct QuantArgs {
  bool quantized = false, fnuz = false, reciprocal = false, power_of_two = false, nan_saturates = false;
  float eps = 0;
};

// One of the two GEMMs: y[slot, n] = sum_k x[row(slot), k] w[expert, n, k].
struct GemmArgs {
  SlotMap slot_map;
  const void *x = nullptr, *weight = nullptr;  // [rows, x_stride], [local_experts, rows, depth]
  const float *x_scale = nullptr,
              *weight_scale = nullptr;   // [rows, blocks of depth], [experts, blocks, blocks of depth]
  const float* router_weight = nullptr;  // [slots], or nullptr: 1
  void* out = nullptr;                   // [slots, columns]
  std::int64_t slots = 0, x_stride = 0, out_stride = 0;
  std::int32_t topk = 1, depth = 0, rows = 0, columns = 0;  // rows of the weight; columns of the result
  reference::DType weight_dtype{}, x_dtype{}, out_dtype{}, round_dtype{};
  bool x_is_per_token = false, vectors = false, round_out = false;
  ActivationArgs activation;  // gate_up
  // Many slots: by expert, and runs of them [.., 3]: expert, first, count.
  const std::int32_t *sorted = nullptr, *runs = nullptr, *run_count = nullptr;
  std::int32_t column_tiles = 1;
};

// What follows the sum of a token's slots: v = round?(v) * factor, step by step, then + shared * shared_factor.
struct CombineSteps {
  struct Step {
    bool round_before = false;
    float factor = 1;
  };
  Step steps[5];
  int count = 0;
  const void* shared = nullptr;        // [M, H] T, or nullptr
  const float* shared_gate = nullptr;  // [M], or nullptr
  float shared_factor = 1;
  bool round_gate = false, round_shared = false;
  void add(bool round_before, float factor) { steps[count++] = {round_before, factor}; }
};

struct ReduceArgs {
  SlotMap slot_map;
  const void* y = nullptr;  // [slots, hidden]
  void* out = nullptr;      // [tokens, hidden]
  std::int64_t tokens = 0;
  std::int32_t topk = 1, hidden = 0, column_tiles = 1;
  reference::DType y_dtype{}, out_dtype{}, dtype{};
  bool by_expert = false, accumulate_in_dtype = false, first_is_rounded = true, vectors = false;
  CombineSteps after;
};

// One pass through experts. `slots_out`: the slots themselves [M, K, H] in T instead of their sum.
struct ExpertsCall {
  reference::ExpertsOptions options;
  reference::ConstView hidden_states;
  reference::ExpertWeights weights;
  const float* router_weight = nullptr;
  SlotMap slot_map;
  CombineSteps after;
  reference::View out;
  void* slots_out = nullptr;
  void* workspace = nullptr;
};
// beside: another pass over the same hidden states, with the same quantization, whose slots the sum of this one may read. The two
// share launches where both have few slots; their workspaces must not overlap then (ExpertsLayout::few of the first).
template <class Backend>
void run_gpu_experts(const ExpertsCall& call, const ExpertsCall* beside, gpu::Stream stream);

// ---- what lies in between, and where

inline bool is_fp8(reference::DType t) {
  return t == reference::DType::kE4M3FN || t == reference::DType::kE4M3FNUZ;
}
inline std::int64_t blocks_of(std::int64_t n) { return (n + kScaleBlock - 1) / kScaleBlock; }

// dtypes and places of the intermediates. Codes of e4m3 are bf16 numbers, exactly.
struct ExpertsLayout {
  using DType = reference::DType;
  std::int64_t tokens, slots, x_blocks, a_blocks, a_stride, run_slots, max_runs;
  DType x_dtype, a_dtype, y_dtype;  // of the GEMMs' left sides and of the slots
  bool prepares_x, quantized, few;
  std::size_t x_at = 0, x_scale_at = 0, h_at = 0, a_at = 0, a_scale_at = 0, y_at = 0, sorted_at = 0,
              runs_at = 0, run_count_at = 0, bytes = 0;

  ExpertsLayout(const reference::ExpertsOptions& o, DType weights, std::int64_t m)
      : tokens(m),
        slots(m * o.topk),
        x_blocks(blocks_of(o.hidden)),
        a_blocks(blocks_of(o.intermediate)),
        a_stride((o.intermediate + 15) / 16 * 16),
        run_slots(is_fp8(weights) ? kRunSlots / 2 : kRunSlots),
        max_runs(std::min(slots, slots / run_slots + o.local_experts)),
        quantized(o.fp8_activations),
        few(slots <= kFewSlots) {
    const bool rounds_a = o.activation.round_product != reference::Rounding::kNone || o.dtype == DType::kF32;
    const DType t =
        is_fp8(weights) && o.dtype == DType::kF16 ? DType::kF32 : o.dtype;  // f16 and e4m3 meet in f32
    x_dtype = quantized ? DType::kBF16 : t;
    a_dtype = quantized ? DType::kBF16 : rounds_a ? t : DType::kF32;
    y_dtype = o.round_slot == reference::Rounding::kNone ? DType::kF32 : o.dtype;
    prepares_x = quantized || x_dtype != o.dtype;
    if (prepares_x) x_at = take(m * o.hidden, x_dtype);
    if (quantized) {
      x_scale_at = take(m * x_blocks, DType::kF32);
      h_at = take(slots * a_stride, DType::kF32);
      a_scale_at = take(slots * a_blocks, DType::kF32);
    }
    a_at = take(slots * a_stride, a_dtype);
    y_at = take(slots * o.hidden, y_dtype);
    sorted_at = take(slots, DType::kI32);
    runs_at = take(max_runs * 3, DType::kI32);
    run_count_at = take(1, DType::kI32);
  }

 private:
  std::size_t take(std::int64_t n, DType t) {
    const std::size_t at = bytes;
    bytes += (static_cast<std::size_t>(n * reference::size_bytes(t)) + 255) / 256 * 256;
    return at;
  }
};

}  // namespace moecheck::MOECHECK_OPTIMIZED
