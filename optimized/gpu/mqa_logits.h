#pragma once
// Logits of the sparse-attention indexer on GPUs, and top-k over them. The operator is specified in reference/mqa_logits.h; the
// kernels are mqa_logits.cuh.
#include <optional>
#include <string>

#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/mqa_logits.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why the kernels cannot do this, or nothing. What the operator itself refuses is not asked here.
inline std::optional<std::string> gpu_mqa_logits_unsupported(const reference::MqaLogitsOptions& o) {
  using reference::DType;
  const auto text = [](std::int64_t v) { return std::to_string(v); };
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  if (o.layout.head_dim > 1024)
    return "head_dim=" + text(o.layout.head_dim) + ": the GPU kernels take up to 1024";
  if (o.layout.dtype != DType::kE4M3FN && o.layout.dtype != DType::kE4M3FNUZ)
    return "K of " + std::string(name(o.layout.dtype)) + ": the GPU kernels take e4m3fn and e4m3fnuz";
  if (o.dtype != DType::kF32 && o.dtype != DType::kBF16)
    return "logits of " + std::string(name(o.dtype)) + ": the GPU kernels write f32 and bf16";
  if (o.layout.order == reference::CacheOrder::kPreshuffled && o.layout.split != 0)
    return "split=" + text(o.layout.split) + ": the GPU kernels read caches of one region";
  if (o.width > kMost) return "width=" + text(o.width) + ": the GPU kernels take up to " + text(kMost);
  return std::nullopt;
}

// As optimized::mqa_logits (optimized/cpu/mqa_logits.h), from memory the device reads; shapes and dtypes are those of
// reference::MqaLogitsInputs, logits [rows, row_stride] f32 or bf16, topk_indices [rows, topk] i32 or absent (topk = 0).
//   alignment   of the elements; what reads K and q in words of 4 or 16 bytes is chosen by their addresses and strides
//   written     columns the rows see; the others below `width` with kMinusInf alone; padding never. All of topk_indices
//   top-k       over the logits as they are stored; equal ones by the lower index; ascending, then -1
//   bits        a logit's depend on its query, its key and the shapes of heads, nothing else; no atomic decides an order
// Lengths, starts and block ids are not checked, for the host does not read them: they must be what mqa_logits_fault accepts.
// A row never writes outside its `width` columns, whatever they are. Two launches (one without top-k), no workspace.
// NaN codes: nothing is promised of their logits (reference/mqa_logits.h); the tile kernel reads them as numbers.
// Asynchronous on `stream`. Throws gpu::DeviceError; on the host executor of this OS thread gpu::host::Error.
template <class Backend>
void gpu_mqa_logits(const reference::MqaLogitsOptions& options, const reference::MqaLogitsInputs& in,
                    reference::View logits, reference::View topk_indices, gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
