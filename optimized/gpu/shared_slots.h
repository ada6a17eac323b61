#pragma once
// Fused shared experts on GPUs: their slots in top-k, and their weights cut out of the fat MLP. The operator is specified in
// reference/shared_experts.h; the kernels are shared_slots.cuh.
#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/shared_experts.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// As optimized::insert_shared_slots (optimized/cpu/shared_experts.h), from memory the device reads: topk_ids [M, K] i32|i64,
// topk_weights [M, K] f32, gate_logits [M, n] f32|bf16|f16 (SlotInsertion::kGated; else absent) -> out_ids [M, options.columns()]
// i32|i64, out_weights [M, options.columns()] f32. Pointers need the alignment of their elements. No workspace.
// Asynchronous on `stream`. Throws gpu::DeviceError; on the host executor of this OS thread gpu::host::Error.
template <class Backend>
void gpu_insert_shared_slots(const reference::SlotInsertionOptions& options, reference::ConstView topk_ids,
                             reference::ConstView topk_weights, reference::ConstView gate_logits,
                             reference::View out_ids, reference::View out_weights, gpu::Stream stream);

// The fat MLP as a checkpoint has it, on the device: gate, up [n I, H], down [H, n I]; scales by `scale`, absent for kNone.
struct GpuFatSharedExpert {
  reference::ConstView gate, up, down, gate_scale, up_scale, down_scale;
  reference::WeightScale scale = reference::WeightScale::kNone;
};
// Where the n slots go: consecutive slots of the fused parameters (the views start at slot E of them).
//   w13 [n, 2I, H], w2 [n, H, I]
//   w13_scale   kTensor [n, 2]    kChannel [n, 2I]    kBlock [n, 2 ceil(I/128), ceil(H/128)]
//   w2_scale    kTensor [n, 1]    kChannel [n, H]     kBlock [n, ceil(H/128), ceil(I/128)]
struct GpuSharedSlotViews {
  reference::View w13, w2, w13_scale, w2_scale;
};
// Byte copies, of any dtype. n is w13.shape[0]. Precondition: reference::split_refusal() has nothing to say. Asynchronous, as above.
template <class Backend>
void gpu_split_shared_experts(const GpuFatSharedExpert& fat, const GpuSharedSlotViews& slots, gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
