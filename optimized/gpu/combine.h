#pragma once
// The weighted reduce, the places where routed_scaling_factor is multiplied in after it, and the shared add, on GPUs. The operator
// is specified in reference/routed_scaling.h (CombineOptions, scale_and_add); the kernels are combine.cuh.
#include <optional>
#include <string>

#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/routed_scaling.h"

namespace moecheck::MOECHECK_OPTIMIZED {

inline constexpr std::int64_t kGpuCombineSlots = 512;

// Why the kernels cannot do this, or nothing. topk: slots of a token, fused ones included.
inline std::optional<std::string> gpu_combine_unsupported(std::int64_t topk) {
  if (topk > kGpuCombineSlots)
    return "topk=" + std::to_string(topk) + ": the GPU kernels take up to " + std::to_string(kGpuCombineSlots);
  return std::nullopt;
}

// As optimized::combine (optimized/cpu/combine.h), from memory the device reads: routed_output [M, K, H] f32|bf16|f16,
// topk_weights [M, K] f32 (absent when weights_applied), topk_ids [M, K] i32|i64: slots of a negative id are not read,
// shared_output [M, H] f32|bf16|f16 or absent; out [M, H] f32|bf16|f16, rounded once more to its own dtype. `out` may be
// shared_output. Pointers need the alignment of their elements; where routed_output, shared_output and out are aligned to 16 bytes,
// and their rows too, 16 bytes are read at once. order kAny is slot order: the same bits at every run. No workspace.
// Asynchronous on `stream`. Throws gpu::DeviceError; on the host executor of this OS thread gpu::host::Error.
template <class Backend>
void gpu_combine(const reference::CombineOptions& options, const reference::CombineInputs& inputs, reference::View out,
                 gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
