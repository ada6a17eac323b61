#pragma once
// From a token's experts to an expert's rows on GPUs: alignment to GEMM blocks, sorting, permutation. The operator is specified in
// reference/moe_align.h; the kernels are moe_align.cuh. All are counting sorts, stable: slots of an expert ascend, at every run.
//
// Memory the device reads and writes: all views, and also options.expert_map and options.expert_mask. Ids may be anything: those
// that lie outside [0, E) belong to nobody. Pointers need the alignment of their elements. `workspace`: gpu_moe_align_workspace
// bytes, aligned to 16, whatever it holds; nothing of it is needed after the call's last kernel.
// Asynchronous on `stream`. Throws gpu::DeviceError; on the host executor of this OS thread gpu::host::Error.
#include <cstddef>
#include <optional>
#include <string>

#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/moe_align.h"

namespace moecheck::MOECHECK_OPTIMIZED {

inline constexpr std::int64_t kGpuAlignExperts = 4096;

// Few slots: one block does all, in shared memory. Else waves count a unit of slots each.
inline constexpr std::int64_t kGpuAlignSmallSlots = 4096, kGpuAlignSmallExperts = 1024;
inline bool gpu_moe_align_is_small(std::int64_t slots, std::int64_t experts) {
  return slots <= kGpuAlignSmallSlots && experts <= kGpuAlignSmallExperts;
}
inline constexpr std::int64_t kGpuAlignUnit = 512, kGpuAlignMaxUnits = 512;
struct GpuAlignUnits {
  std::int64_t slots, count, stride;  // of a unit; units; counts of a bucket, a multiple of 4
};
inline GpuAlignUnits gpu_moe_align_units(std::int64_t slots) {
  GpuAlignUnits u{};
  u.slots = (slots / (kGpuAlignMaxUnits * kGpuAlignUnit) + 1) * kGpuAlignUnit;
  u.count = slots == 0 ? 1 : (slots + u.slots - 1) / u.slots;
  u.stride = (u.count + 3) / 4 * 4;
  return u;
}

// Why the kernels cannot do this, or nothing. slots: M*K; rows: of the sorted outputs, padding included.
inline std::optional<std::string> gpu_moe_align_unsupported(std::int64_t experts, std::int64_t slots, std::int64_t rows) {
  if (experts > kGpuAlignExperts)
    return "experts=" + std::to_string(experts) + ": the GPU kernels take up to " + std::to_string(kGpuAlignExperts);
  if (slots >= std::int64_t{1} << 30 || rows >= std::int64_t{1} << 30)
    return std::to_string(rows) + " rows: the GPU kernels count in 32 bits";
  return std::nullopt;
}

// Bytes of `workspace` for M*K slots and E experts (global ones, or more), for any of the functions below that take one. 0 for few
// slots: it may be nullptr then.
inline std::size_t gpu_moe_align_workspace(std::int64_t slots, std::int64_t experts) {
  if (gpu_moe_align_is_small(slots, experts)) return 0;
  return static_cast<std::size_t>((experts + 1) * (gpu_moe_align_units(slots).stride + 2)) * sizeof(std::int32_t);
}

// topk_ids [M, K] or [M*K] i32|i64 -> sorted_token_ids i32 [capacity or more], filled with M*K; expert_ids i32
// [ceil(capacity / B) or more], filled with tail_expert; num_tokens_post_padded i32 [1].
template <class Backend>
void gpu_moe_align_block_size(const reference::AlignOptions& options, reference::ConstView topk_ids,
                              reference::View sorted_token_ids, reference::View expert_ids,
                              reference::View num_tokens_post_padded, void* workspace, gpu::Stream stream);

// M < 2^24, K < 256. topk_ids [M, K] i32|i64, topk_weights [M, K] f32 -> sorted_ids i32 (bits of the packed u32) and sorted_weights f32
// [M*K + E*B - K], sorted_expert_ids i32 [ceil(capacity / B)], num_valid_ids i32 [2].
template <class Backend>
void gpu_moe_sorting(const reference::SortingOptions& options, reference::ConstView topk_ids,
                     reference::ConstView topk_weights, reference::View sorted_ids, reference::View sorted_weights,
                     reference::View sorted_expert_ids, reference::View num_valid_ids, void* workspace,
                     gpu::Stream stream);

// topk_ids [M, K] i32|i64 -> expert_first_token_offset i64 [E_local + 1], row_of_slot i32 [M*K], slot_of_row and m_indices i32 [R],
// R >= the rows needed: M*K + E_local * (align - 1) always suffices. Behind the last row they hold -1 and invalid_expert. E_local
// is taken from expert_first_token_offset's shape; its last entry is the number of rows.
template <class Backend>
void gpu_permute(const reference::PermuteOptions& options, reference::ConstView topk_ids,
                 reference::View expert_first_token_offset, reference::View row_of_slot, reference::View slot_of_row,
                 reference::View m_indices, void* workspace, gpu::Stream stream);

// hidden_states [M, H] of any dtype, slot_of_row i32 [R] -> permuted [R, H], same dtype; rows with slot -1 keep what `permuted`
// holds. 16 bytes at once where both and their rows are aligned to it.
template <class Backend>
void gpu_permute_rows(const reference::PermuteOptions& options, reference::ConstView hidden_states,
                      reference::ConstView slot_of_row, reference::View permuted, gpu::Stream stream);

// permuted [R, H] f32|bf16|f16, topk_weights [M, K] f32, row_of_slot i32 [M*K] -> out [M, H] f32|bf16|f16, rounded once. K as
// gpu_combine_unsupported (combine.h) says.
template <class Backend>
void gpu_unpermute(const reference::PermuteOptions& options, reference::ConstView permuted,
                   reference::ConstView topk_weights, reference::ConstView row_of_slot, reference::View out,
                   gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
