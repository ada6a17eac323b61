#pragma once
// Shared experts as slots of top-k on GPUs. The operator is specified in reference/shared_experts.h.
//
// insert: 2^n lanes take a row, as few as hold its columns; the sum of a row's scores is one of these lanes alone.
// split: strided copies, 16 bytes at once where all pieces are aligned to it (shared_slots_split.h).
#include <bit>
#include <string>

#include "optimized/gpu/math.h"
#include "optimized/gpu/number_formats.h"
#include "optimized/gpu/shared_slots_split.h"

namespace moecheck::MOECHECK_OPTIMIZED::shared_slots_kernels {

using reference::DType;
using reference::SlotInsertion;

inline constexpr int kWavesPerBlock = 4;

struct InsertArgs {
  const void* ids = nullptr;           // [tokens, topk]
  const float* weights = nullptr;      // [tokens, topk]
  const void* gate_logits = nullptr;   // [tokens, shared]
  void* out_ids = nullptr;             // [tokens, columns]
  float* out_weights = nullptr;        // [tokens, columns]
  std::int64_t tokens = 0, experts = 0, ep_rank = 0, ep_size = 1;
  std::int32_t topk = 0, shared = 0, columns = 0;
  std::int32_t lanes = 1;  // of a row: a power of two, at most a wave's
  SlotInsertion insertion{};
  DType gate_dtype{};
  bool ids_are_64_bit = false, out_ids_are_64_bit = false, renormalize = false, scale_flag = false;
  float routed_scaling_factor = 1, append_weight = 1;
};

GPU_DEVICE float gate_weight(const InsertArgs& a, std::int64_t i) {
  const auto* half = static_cast<const std::uint16_t*>(a.gate_logits);
  const float x = a.gate_dtype == DType::kF32    ? static_cast<const float*>(a.gate_logits)[i]
                  : a.gate_dtype == DType::kBF16 ? from_bf16(half[i])
                                                 : from_f16(half[i]);
  return 1.0F / (1.0F + fast_exp(-x));
}

// Weight of shared slot j; sum: of the row's scores (kSglang).
GPU_DEVICE float shared_weight(const InsertArgs& a, std::int64_t row, int j, float sum) {
  if (a.insertion == SlotInsertion::kSglang) return sum / a.routed_scaling_factor;
  if (a.insertion == SlotInsertion::kAiterAppend) return a.append_weight;
  if (a.insertion == SlotInsertion::kGated) return gate_weight(a, row * a.shared + j);
  return 1.0F;
}

GPU_DEVICE std::int64_t slot_id(const InsertArgs& a, std::int64_t row, int column) {
  if (column < a.topk) {
    const std::int64_t i = row * a.topk + column;
    return a.ids_are_64_bit ? static_cast<const std::int64_t*>(a.ids)[i] : static_cast<const std::int32_t*>(a.ids)[i];
  }
  // With expert parallelism a token's shared experts belong to one rank alone.
  const bool mine = a.insertion != SlotInsertion::kVllmRocm || a.ep_size <= 1 || row % a.ep_size == a.ep_rank;
  const int j = column - a.topk;
  return a.experts + (mine && j < a.shared ? j : a.shared);
}

//   routed: s_j / S (* rsf)        shared: (S / rsf) / S (* rsf)        S = sum of the routed scores alone
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kWavesPerBlock* W) insert_slots(const InsertArgs a) {
  const int rows_of_wave = (GPU_FAULT(kGpuSlotsWaveWidth32) ? 32 : W) / a.lanes;
  const std::int64_t wave = static_cast<std::int64_t>(block_x()) * kWavesPerBlock + wave_in_block<W>();
  const std::int64_t row = wave * rows_of_wave + lane<W>() / a.lanes;
  const int first = lane<W>() % a.lanes;
  const bool exists = row < a.tokens || (GPU_FAULT(kGpuSlotsTailRows) && row == a.tokens);
  float sum = 0;
  if (a.insertion == SlotInsertion::kSglang) {
    for (int k = first; k < a.topk && exists; k += a.lanes) sum += a.weights[row * a.topk + k];
    const int lanes = GPU_FAULT(kGpuSlotsSumAcrossRows) ? W : a.lanes;
    for (int step = lanes / 2; step > 0; step /= 2) sum += shfl_xor<W>(sum, step);
  }
  if (!exists) return;  // no wave operation follows
  const int stride = GPU_FAULT(kGpuSlotsRowStride) ? a.topk + a.shared : a.columns;
  for (int c = first; c < a.columns; c += a.lanes) {
    // The sentinel's column (kVllmRocm) has the weight of a shared slot.
    float w = c < a.topk ? a.weights[row * a.topk + c] : shared_weight(a, row, c - a.topk, sum);
    if (a.insertion == SlotInsertion::kSglang) {
      if (a.renormalize) w /= sum;
      if (a.scale_flag) w *= a.routed_scaling_factor;
    }
    const std::int64_t id = slot_id(a, row, c), at = row * stride + c;
    a.out_weights[at] = w;
    if (a.out_ids_are_64_bit)
      static_cast<std::int64_t*>(a.out_ids)[at] = id;
    else
      static_cast<std::int32_t*>(a.out_ids)[at] = static_cast<std::int32_t>(id);
  }
}

template <int W>
void launch_insert(InsertArgs a, Stream stream) {
  static Specialization& one = register_specialization(
      "shared_experts", std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) + " insert");
  if (a.tokens == 0) return;
  a.lanes = static_cast<std::int32_t>(std::bit_ceil(static_cast<std::uint32_t>(a.columns)));
  if (a.lanes > W) a.lanes = W;
  const std::int64_t rows = kWavesPerBlock * (W / a.lanes);  // of a block
  ++one.executed;
  launch(insert_slots<W>,
         {.grid = static_cast<unsigned>((a.tokens + rows - 1) / rows),
          .block = kWavesPerBlock * W,
          .stream = stream,
          .wave = W},
         a);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::shared_slots_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_insert_shared_slots(const reference::SlotInsertionOptions& o, reference::ConstView topk_ids,
                             reference::ConstView topk_weights, reference::ConstView gate_logits,
                             reference::View out_ids, reference::View out_weights, gpu::Stream stream) {
  shared_slots_kernels::InsertArgs a;
  a.ids = topk_ids.data;
  a.weights = topk_weights.as<float>();
  a.gate_logits = gate_logits.data;
  a.out_ids = out_ids.data;
  a.out_weights = out_weights.as<float>();
  a.tokens = topk_ids.shape[0];
  a.experts = o.experts, a.ep_rank = o.ep_rank, a.ep_size = o.ep_size;
  a.topk = static_cast<std::int32_t>(o.topk);
  a.shared = static_cast<std::int32_t>(o.shared);
  a.columns = static_cast<std::int32_t>(o.columns());
  a.insertion = o.insertion;
  a.gate_dtype = gate_logits.dtype;
  a.ids_are_64_bit = topk_ids.dtype == reference::DType::kI64;
  a.out_ids_are_64_bit = out_ids.dtype == reference::DType::kI64;
  a.renormalize = o.renormalize, a.scale_flag = o.scale_flag;
  a.routed_scaling_factor = static_cast<float>(o.routed_scaling_factor);
  a.append_weight = static_cast<float>(o.append_weight);
  gpu::with_wave_width([&]<int W>() { shared_slots_kernels::launch_insert<W>(a, stream); });
}

template <class Backend>
void gpu_split_shared_experts(const GpuFatSharedExpert& fat, const GpuSharedSlotViews& slots, gpu::Stream stream) {
  shared_slots_kernels::split(fat, slots, stream);
}

template void gpu_insert_shared_slots<gpu::ThisBackend>(const reference::SlotInsertionOptions&, reference::ConstView,
                                                        reference::ConstView, reference::ConstView, reference::View,
                                                        reference::View, gpu::Stream);
template void gpu_split_shared_experts<gpu::ThisBackend>(const GpuFatSharedExpert&, const GpuSharedSlotViews&,
                                                         gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
