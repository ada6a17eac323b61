#pragma once
// Fused experts on GPUs. The operator is specified in reference/experts.h; the kernels are experts.cuh.
#include <optional>
#include <string>

#include "optimized/fault.h"
#include "optimized/gpu/experts_args.h"
#include "optimized/gpu/types.h"
#include "reference/experts.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why the kernels cannot do this, or nothing. weights: the dtype of w13 and w2. What the operator itself refuses
// (reference::refusal) is not asked here.
inline std::optional<std::string> gpu_experts_unsupported(const reference::ExpertsOptions& o,
                                                          reference::DType weights) {
  using reference::DType;
  const bool fp8 = weights == DType::kE4M3FN || weights == DType::kE4M3FNUZ;
  if (weights == DType::kE5M2) return "e5m2 weights: only the two e4m3 formats are read here";
  if (!fp8 && weights != o.dtype)
    return std::string(reference::name(weights)) + " weights with " + std::string(reference::name(o.dtype)) +
           " hidden states: the GPU kernels take weights of the same dtype, or e4m3";
  if (o.fp8_activations && o.quant.group != 128)
    return "activation groups of " + std::to_string(o.quant.group) + ": only 128, the weights' block";
  if (o.fp8_activations && o.quant.dtype != weights)
    return std::string(reference::name(o.quant.dtype)) + " activations with " +
           std::string(reference::name(weights)) + " weights: the GPU kernels take one fp8 format";
  if (o.topk > 128) return "topk=" + std::to_string(o.topk) + ": the GPU kernels take up to 128";
  if (o.local_experts > 8192)
    return "local_experts=" + std::to_string(o.local_experts) + ": the GPU kernels take up to 8192";
  return std::nullopt;
}

// Bytes of workspace for `tokens` rows. What it holds before does not matter.
inline std::size_t gpu_experts_workspace(const reference::ExpertsOptions& options, reference::DType weights,
                                         std::int64_t tokens) {
  return ExpertsLayout(options, weights, tokens).bytes;
}

// As optimized::experts (optimized/cpu/experts.h), from memory the device reads: hidden_states [M, H] T, w13 [E_local, 2I, H] and
// w2 [E_local, H, I] in T or e4m3 with f32 block scales, topk_weights [M, K] f32 (absent with RouterWeight::kNone), topk_ids
// [M, K] i32|i64, expert_map [E] i32|i64 or absent; out [M, H] f32|bf16|f16. Ids outside [0, E), and those that expert_map sends
// outside [0, E_local), contribute nothing, whatever their weight. Pointers need the alignment of their elements; rows whose
// address and size are multiples of 16 bytes are read faster. workspace: 256-byte aligned.
// The same bits at every run: slots are added in the order of the options, by one thread.
// Asynchronous on `stream`. Throws gpu::DeviceError; on the host executor of this OS thread gpu::host::Error.
template <class Backend>
void gpu_experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
                 reference::View out, void* workspace, gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
