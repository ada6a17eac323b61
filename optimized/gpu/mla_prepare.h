#pragma once
// The step before MLA attention on GPUs. The operator is specified in reference/mla_prepare.h; the kernels are mla_prepare.cuh.
//
// All calls are asynchronous on `stream`, read and write memory of the device, and throw gpu::DeviceError; on the host executor of
// this OS thread gpu::host::Error.
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/mla_prepare.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why the kernels cannot do this, or nothing. T: of q and k; table: of cos and sin.
inline std::optional<std::string> gpu_mla_prepare_unsupported(reference::DType t, reference::DType table,
                                                              reference::DType q_out,
                                                              reference::DType cache) {
  using reference::DType;
  const auto is16 = [](DType d) { return d == DType::kBF16 || d == DType::kF16; };
  const auto is_fp8 = [](DType d) { return d == DType::kE4M3FN || d == DType::kE4M3FNUZ; };
  const auto refused = [](const char* what, DType d, const char* use) {
    return std::string(what) + " of " + std::string(name(d)) + ": the GPU kernels take " + use;
  };
  if (!is16(t)) return refused("q and k", t, "bf16 and f16");
  if (!is16(table) && table != DType::kF32) return refused("cos and sin", table, "bf16, f16 and f32");
  if (!is16(q_out) && !is_fp8(q_out)) return refused("q_out", q_out, "bf16, f16, e4m3fn and e4m3fnuz");
  if (!is16(cache) && !is_fp8(cache)) return refused("kv_cache", cache, "bf16, f16, e4m3fn and e4m3fnuz");
  return std::nullopt;
}

// As optimized::mla_prepare (optimized/cpu/mla_prepare.h). Shapes and dtypes as in reference::MlaPrepareInputs; decode_q_pe_out
// and q_nope_zeros_out are of at most `tokens` tokens. Pointers need the alignment of their elements; where they have 16 bytes,
// nope_dim is a multiple of 8 and rope_dim of 16, lanes read and write 8 channels at a time. No workspace.
// Nothing outside the views is read or written whatever positions and slots hold: a slot behind the cache counts as none, positions
// are clamped to the tables. Of several tokens with one slot any may win, byte by byte, and runs may differ there.
template <class Backend>
void gpu_mla_prepare(const reference::MlaPrepareInputs& in, const reference::MlaPrepareOptions& options,
                     const reference::MlaPrepareOutputs& out, gpu::Stream stream);

// q_nope [T, H, n], q_pe [T, H, p] -> out [T, H, n + p], all of one dtype, which may be any: bytes.
template <class Backend>
void gpu_concat_mla_absorb_q(reference::ConstView q_nope, reference::ConstView q_pe, reference::View out,
                             gpu::Stream stream);

// What attention reads q through: element (t, h, c) is at data + (t strides[0] + h strides[1] + c strides[2]) elements.
struct GpuQueryView {
  const void* data = nullptr;
  std::array<std::int64_t, 3> strides{};
};
// The cat-skip: q_cat [T, H, row], of which the first `width` channels of each head are q, used as it is: nothing is launched. With
// copy_strided a q_cat whose heads do not lie side by side (row > width) is copied to the workspace, as .contiguous() does.
template <class Backend>
GpuQueryView gpu_cat_skip(reference::ConstView q_cat, std::int64_t width, bool copy_strided, void* workspace,
                          gpu::Stream stream);
// Bytes of its workspace, which needs the alignment of an element; 0: none is used.
inline std::size_t gpu_cat_skip_workspace(reference::ConstView q_cat, std::int64_t width, bool copy_strided) {
  if (!copy_strided || q_cat.shape[2] <= width) return 0;
  return static_cast<std::size_t>(q_cat.shape[0] * q_cat.shape[1] * width * size_bytes(q_cat.dtype));
}

// Reads q as attention does, through the view: q_all [T, H, width]; and tells where the view is: q_all_offset i64 [1], bytes from
// q_cat's memory to the view's, and q_all_strides i64 [3].
template <class Backend>
void gpu_read_query(const GpuQueryView& view, reference::ConstView q_cat, reference::View q_all,
                    reference::View q_all_offset, reference::View q_all_strides, gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
