#pragma once
// Gating on GPUs. The operator is specified in reference/gating.h; the kernels are gating.cuh.
#include <optional>
#include <string>

#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/gating.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why the kernels cannot do this, or nothing. What the operator itself refuses (reference::refusal) is not asked here.
inline std::optional<std::string> gpu_gating_unsupported(const reference::GatingOptions& o) {
  if (o.experts > 1024) return "experts=" + std::to_string(o.experts) + ": the GPU kernels take up to 1024";
  if (o.topk > 32) return "topk=" + std::to_string(o.topk) + ": the GPU kernels take up to 32";
  return std::nullopt;
}

// As optimized::gating (optimized/cpu/gating.h), from memory the device reads: router_logits [M, options.logit_columns()]
// f32|bf16|f16, bias [E] f32|bf16|f16 or absent, topk_weights [M, topk + shared] f32, topk_ids [M, topk + shared] i32|i64.
// Every element is written; ids lie in [0, E + shared), or are -1 in padded rows, whatever the logits hold. Pointers need the
// alignment of their elements; with 16 bytes rows are read faster. No workspace.
// Asynchronous on `stream`. Throws gpu::DeviceError; on the host executor of this OS thread gpu::host::Error.
template <class Backend>
void gpu_gating(const reference::GatingOptions& options, reference::ConstView router_logits,
                reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
                gpu::Stream stream);

// ids[i] = table[ids[i]] for the first `count` ids that lie in [0, experts): the logical experts' physical ones (EPLB).
template <class Backend>
void gpu_remap_ids(reference::ConstView table, std::int64_t count, std::int64_t experts, reference::View ids,
                   gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
