#pragma once
// Gating on GPUs. The operator is specified in reference/gating.h; the kernels are gating.cuh.
#include <optional>
#include <string>

#include "optimized/fault.h"
#include "reference/gating.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why the kernels cannot do this, or nothing. What the operator itself refuses (reference::refusal) is not asked here.
std::optional<std::string> gpu_gating_unsupported(const reference::GatingOptions& options);

// As optimized::gating (optimized/cpu/gating.h), from memory the device reads: router_logits [M, options.logit_columns()]
// f32|bf16|f16, bias [E] f32|bf16|f16 or absent, topk_weights [M, topk + shared] f32, topk_ids [M, topk + shared] i32|i64.
// Every element is written; ids lie in [0, E + shared), or are -1 in padded rows, whatever the logits hold. Pointers need the
// alignment of their elements; with 16 bytes rows are read faster. No workspace.
// On the host executor of this OS thread (gpu/host/executor.h), at its wave width; throws gpu::host::Error.
void gating_host(const reference::GatingOptions& options, reference::ConstView router_logits,
                 reference::ConstView bias, reference::View topk_weights, reference::View topk_ids);
// On a CUDA (HIP) device, on `stream` (cudaStream_t, hipStream_t). Asynchronous; throws gpu::DeviceError. In builds with that
// toolkit.
void gating_cuda(const reference::GatingOptions& options, reference::ConstView router_logits,
                 reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
                 void* stream);
void gating_hip(const reference::GatingOptions& options, reference::ConstView router_logits,
                reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
                void* stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
