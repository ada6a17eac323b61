#pragma once
// What the align kernels are given. One counting sort serves the four conventions: they differ in which bucket a slot belongs to,
// how much room a bucket takes, and what is written where a slot comes to lie. Internal.
#include <cstdint>

#include "optimized/fault.h"
#include "optimized/gpu/fault.h"
#include "optimized/gpu/moe_align.h"

namespace moecheck::MOECHECK_OPTIMIZED {

enum class AlignKind : std::uint8_t { kBlocks, kSorting, kPermute };

struct AlignArgs {
  AlignKind kind{};
  bool ids_are_64_bit = false;
  bool bucket_of_nobody = false;  // kBlocks: bucket 0 is id -1's (sglang)
  bool ignore_invalid = false;    // kBlocks: slots of other ranks take no part, blocks follow local ids
  bool k_major = false;           // kPermute
  const void* topk_ids = nullptr;
  const float* topk_weights = nullptr;       // kSorting
  const std::int32_t* expert_map = nullptr;  // local index or -1; kSorting: 1 or 0; or nullptr
  std::int32_t slots = 0;                    // all
  std::int32_t sorted_slots = 0;             // slots from here on take no part
  std::int32_t tokens = 0, topk = 1, experts = 0, buckets = 0;
  std::int32_t block = 1;  // a bucket's room is a multiple of it
  std::int32_t bits = 0;   // of a bucket's number

  std::int32_t* sorted = nullptr;  // [capacity] slots, or their packed form; where there is none, `padding`
  std::int32_t capacity = 0, padding = 0;
  float* sorted_weights = nullptr;  // kSorting, [capacity]
  std::int32_t* labels = nullptr;   // [label_count] expert of each block (kPermute: row); behind the last `tail`
  std::int32_t label_count = 0, tail = 0;
  std::int32_t* row_of_slot = nullptr;  // kPermute
  std::int64_t* offsets = nullptr;      // kPermute, [buckets + 1]
  std::int32_t* totals = nullptr;       // [1] rows with padding; kSorting: [2], and tokens

  // Many slots: unit u takes slots [u * unit, (u + 1) * unit).
  std::int32_t* counts = nullptr;  // [buckets, stride] of each unit; then how many slots of earlier units there are
  std::int32_t* starts = nullptr;  // [buckets] first row
  std::int32_t* experts_of = nullptr;  // [buckets] what `labels` say
  std::int32_t unit = 0, units = 0, stride = 0;
};

// ids, experts, and the workspace for many slots.
inline AlignArgs align_args(AlignKind kind, reference::ConstView topk_ids, std::int64_t experts, std::int64_t buckets,
                            void* workspace) {
  AlignArgs a;
  a.kind = kind;
  a.topk_ids = topk_ids.data;
  a.ids_are_64_bit = topk_ids.dtype == reference::DType::kI64;
  a.slots = a.sorted_slots = static_cast<std::int32_t>(topk_ids.shape.numel());
  a.experts = static_cast<std::int32_t>(experts);
  a.buckets = static_cast<std::int32_t>(buckets);
  while (1 << a.bits < a.buckets - (GPU_FAULT(kGpuAlignBitsOfExperts) ? 1 : 0)) ++a.bits;
  if (gpu_moe_align_is_small(a.slots, experts)) return a;
  const GpuAlignUnits units = gpu_moe_align_units(a.slots);
  a.unit = static_cast<std::int32_t>(units.slots);
  a.units = static_cast<std::int32_t>(units.count);
  a.stride = static_cast<std::int32_t>(units.stride);
  a.counts = static_cast<std::int32_t*>(workspace);
  a.starts = a.counts + buckets * units.stride;
  a.experts_of = a.starts + buckets;
  return a;
}

inline AlignArgs block_args(const reference::AlignOptions& o, reference::ConstView topk_ids, reference::View sorted,
                            reference::View expert_ids, reference::View num_tokens_post_padded, void* workspace) {
  const bool sglang = o.convention == reference::AlignConvention::kSglang;
  AlignArgs a = align_args(AlignKind::kBlocks, topk_ids, o.experts, o.experts + (sglang ? 1 : 0), workspace);
  a.bucket_of_nobody = sglang;
  a.expert_map = o.expert_map.empty() ? nullptr : o.expert_map.data();
  a.ignore_invalid = o.ignore_invalid_experts && a.expert_map != nullptr;
  a.block = static_cast<std::int32_t>(o.block_size);
  a.sorted = sorted.as<std::int32_t>();
  a.capacity = static_cast<std::int32_t>(sorted.shape.numel());
  a.padding = a.slots;
  a.labels = expert_ids.as<std::int32_t>();
  a.label_count = static_cast<std::int32_t>(expert_ids.shape.numel());
  a.tail = o.tail_expert;
  a.totals = num_tokens_post_padded.as<std::int32_t>();
  return a;
}

inline AlignArgs sorting_args(const reference::SortingOptions& o, reference::ConstView topk_ids,
                              reference::ConstView topk_weights, reference::View sorted_ids,
                              reference::View sorted_weights, reference::View sorted_expert_ids,
                              reference::View num_valid_ids, void* workspace) {
  AlignArgs a = align_args(AlignKind::kSorting, topk_ids, o.experts, o.experts, workspace);
  a.topk = static_cast<std::int32_t>(o.topk);
  a.tokens = a.slots / a.topk;
  if (o.num_local_tokens >= 0 && o.num_local_tokens < a.tokens)
    a.sorted_slots = static_cast<std::int32_t>(o.num_local_tokens) * a.topk;
  a.topk_weights = topk_weights.as<float>();
  a.expert_map = o.expert_mask.empty() ? nullptr : o.expert_mask.data();
  a.block = static_cast<std::int32_t>(o.block_size);
  a.sorted = sorted_ids.as<std::int32_t>();
  a.capacity = static_cast<std::int32_t>(sorted_ids.shape.numel());
  a.padding = static_cast<std::int32_t>(
      reference::encode_sorted_id(static_cast<std::uint32_t>(a.topk), static_cast<std::uint32_t>(a.tokens)));
  a.sorted_weights = sorted_weights.as<float>();
  a.labels = sorted_expert_ids.as<std::int32_t>();
  a.label_count = static_cast<std::int32_t>(sorted_expert_ids.shape.numel());
  a.tail = -1;
  a.totals = num_valid_ids.as<std::int32_t>();
  return a;
}

inline AlignArgs permute_args(const reference::PermuteOptions& o, reference::ConstView topk_ids, reference::View offsets,
                              reference::View row_of_slot, reference::View slot_of_row, reference::View m_indices,
                              void* workspace) {
  AlignArgs a =
      align_args(AlignKind::kPermute, topk_ids, o.experts, offsets.shape.numel() - 1, workspace);
  a.topk = static_cast<std::int32_t>(o.topk);
  a.tokens = a.slots / a.topk;
  a.k_major = o.index == reference::SlotIndex::kKMajor;
  a.expert_map = o.expert_map.empty() ? nullptr : o.expert_map.data();
  a.block = static_cast<std::int32_t>(o.align);
  a.sorted = slot_of_row.as<std::int32_t>();
  a.capacity = static_cast<std::int32_t>(slot_of_row.shape.numel());
  a.padding = -1;
  a.labels = m_indices.as<std::int32_t>();
  a.label_count = static_cast<std::int32_t>(m_indices.shape.numel());
  a.tail = o.invalid_expert;
  a.row_of_slot = row_of_slot.as<std::int32_t>();
  a.offsets = offsets.as<std::int64_t>();
  return a;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
