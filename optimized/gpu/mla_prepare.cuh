#pragma once
// The step before MLA attention on GPUs: a wave per row of q or k, (token, head). Specified in reference/mla_prepare.h.
//
// One launch: key rows first, whose addresses wait for their slots, then query rows, which also write the zeros and the decode
// outputs of their token. Neither shared memory nor barriers. Two specializations a wave width: lanes take 8 channels, 16 bytes,
// at a time, or single channels where dimensions or pointers are odd.
#include <array>
#include <string>

#include "optimized/gpu/mla_prepare.h"
#include "optimized/gpu/mla_prepare_copy.h"
#include "optimized/gpu/mla_prepare_rows.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::mla_prepare_kernels {

GPU_DEVICE std::int64_t position_of(const MlaPrepareArgs& a, std::uint32_t t) {
  const std::int64_t p = load_id(a.positions, a.positions_are_64_bit, t);
  return p < 0 ? 0 : p < a.max_positions ? p : a.max_positions - 1;
}

template <int W, int N>
GPU_DEVICE void query_row(const MlaPrepareArgs& a, std::uint32_t row) {
  const std::uint32_t t = row / a.heads;
  const std::int64_t nope = 2 * static_cast<std::int64_t>(row) * a.nope_dim,
                     pe = 2 * static_cast<std::int64_t>(row) * a.rope_dim;
  const std::int64_t position = position_of(a, t);
  const std::int64_t slot = a.skips_padded ? load_id(a.slot_mapping, a.slots_are_64_bit, t) : 0;
  const float scale = load_scale(a.q_scale);
  const Ahead<N> ahead = load_ahead<W, N>(a, a.q_nope + nope, a.q_pe + pe);
  if (t < a.zero_tokens)
    for (int c = lane<W>() * N; c < a.nope_dim; c += W * N)
      store_stored(a.q_nope_zeros_out + nope + 2 * c, Stored<N>());
  if (slot < 0) return;
  const bool is_fp8 = a.q_dtype == DType::kE4M3FN || a.q_dtype == DType::kE4M3FNUZ;
  const int size = is_fp8 ? 1 : 2;
  char* to = a.q_out + row * static_cast<std::int64_t>(a.nope_dim + a.rope_dim) * size;
  put_row<W, N>(a,
                {a.q_nope + nope,
                 a.q_pe + pe,
                 position,
                 cast_to(a, a.q_dtype, a.q_scale != nullptr, scale),
                 {to, to + a.nope_dim * size, false},
                 t < a.decode_tokens ? a.decode_q_pe_out + pe : nullptr},
                ahead);
}

// Head g of a slot of the cache.
GPU_DEVICE Target cache_target(const MlaPrepareArgs& a, std::int64_t slot, std::uint32_t g) {
  const bool is_fp8 = a.cache_dtype == DType::kE4M3FN || a.cache_dtype == DType::kE4M3FNUZ;
  const std::int64_t nope = a.nope_dim * (is_fp8 ? 1 : 2), pe = a.rope_dim * (is_fp8 ? 1 : 2);
  const std::int64_t block = slot / a.block_size, token = slot % a.block_size;
  if (!a.preshuffled) {
    char* row = a.kv_cache + block * a.block_stride + (token * a.kv_heads + g) * (nope + pe);
    return {row, row + nope, false};
  }
  char* first = a.kv_cache + (block * a.kv_heads + g) * a.block_stride + token % 16 * 16;
  return {first + token / 16 * 16 * nope, first + a.block_size * nope + token / 16 * 16 * pe, true};
}

template <int W, int N>
GPU_DEVICE void key_row(const MlaPrepareArgs& a, std::uint32_t row) {
  const std::uint32_t t = row / a.kv_heads, g = row % a.kv_heads;
  const char* nope = a.k_nope + 2 * static_cast<std::int64_t>(row) * a.nope_dim;
  const std::int64_t pe = 2 * static_cast<std::int64_t>(row) * a.rope_dim;
  const std::uint32_t of_block =
      GPU_FAULT(kGpuMlaSlotOfBlock) ? static_cast<unsigned>(wave_in_block<W>()) : 0;
  const std::int64_t slot = load_id(a.slot_mapping, a.slots_are_64_bit, of_block < t ? t - of_block : t);
  const std::int64_t position = t < a.tokens ? position_of(a, t) : -1;
  const float scale = load_scale(a.k_scale);
  const Ahead<N> ahead = load_ahead<W, N>(a, nope, a.k_pe + pe);
  if (slot < 0 || slot >= a.slots) return;
  put_row<W, N>(a,
                {nope, a.k_pe + pe, position, cast_to(a, a.cache_dtype, a.k_scale != nullptr, scale),
                 cache_target(a, slot, g), a.k_pe_out != nullptr ? a.k_pe_out + pe : nullptr},
                ahead);
}

template <int W, int N>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kMostThreads) prepare_rows(const MlaPrepareArgs a) {
  constexpr unsigned kLanes = W;
  const unsigned waves = block_dim_x() / (GPU_FAULT(kGpuMlaWaveWidth32) ? 32 : kLanes);
  const std::uint32_t row = block_x() * waves + static_cast<unsigned>(wave_in_block<W>());
  if (row < a.key_rows) return key_row<W, N>(a, row);
  if (row < a.key_rows + a.query_rows) query_row<W, N>(a, row - a.key_rows);
}

// T: of the outputs.
template <class T>
GPU_KERNEL void write_numbers(std::int64_t offset, std::int64_t s0, std::int64_t s1, std::int64_t s2,
                              T* q_all_offset, T* q_all_strides) {
  if (thread_x() != 0) return;
  q_all_offset[0] = offset;
  q_all_strides[0] = s0, q_all_strides[1] = s1, q_all_strides[2] = s2;
}

// ---- which kernel

inline Specialization* registered(int w, const std::string& kernel) {
  return &register_specialization(
      "mla_prepare", std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(w) + " " + kernel);
}

// Few rows: few waves a block, so that they spread over the device.
template <int W, class Kernel, class Args>
void launch_rows(Kernel kernel, const Args& args, std::int64_t rows, Stream stream) {
  constexpr std::int64_t kBlocks = 128, kMost = kMostThreads / W;
  const std::int64_t waves = rows < kBlocks ? 1 : rows < kBlocks * kMost ? rows / kBlocks : kMost;
  launch(kernel,
         {.grid = static_cast<unsigned>((rows + waves - 1) / waves),
          .block = static_cast<unsigned>(waves * W),
          .stream = stream,
          .wave = W},
         args);
}

template <int W>
void launch_prepare(const MlaPrepareArgs& a, Stream stream) {
  static Specialization* const vectors = registered(W, "rows, 8 channels a lane");
  static Specialization* const elements = registered(W, "rows, single channels");
  const std::int64_t rows = std::int64_t{a.query_rows} + a.key_rows;
  if (rows == 0) return;
  if (a.not_vectors != nullptr) note_fallback("mla_prepare", a.not_vectors);
  ++(a.not_vectors == nullptr ? vectors : elements)->executed;
  launch_rows<W>(a.not_vectors == nullptr ? prepare_rows<W, 8> : prepare_rows<W, 1>, a, rows, stream);
}

template <int W>
void launch_copy(const CopyArgs& args, Stream stream) {
  using Kernel = void (*)(CopyArgs);
  struct Choice {
    int unit;
    Kernel kernel;
    Specialization* specialization;
  };
  static const std::array<Choice, 4> choices = {
      {{16, copy_rows<W, 16>, registered(W, "copy, 16 bytes a lane")},
       {4, copy_rows<W, 4>, registered(W, "copy, 4 bytes a lane")},
       {2, copy_rows<W, 2>, registered(W, "copy, 2 bytes a lane")},
       {1, copy_rows<W, 1>, registered(W, "copy, single bytes")}}};
  if (args.rows == 0) return;
  const int unit = copy_unit(args);
  if (unit != 16) note_fallback("mla_prepare", "rows of bytes are not multiples of 16, or not aligned");
  for (const Choice& c : choices) {
    if (c.unit != unit) continue;
    ++c.specialization->executed;
    launch_rows<W>(c.kernel, args, args.rows, stream);
  }
}
inline void launch_copy(const CopyArgs& args, Stream stream) {
  with_wave_width([&]<int W>() { launch_copy<W>(args, stream); });
}

// Rows of q [T, H, bytes], where heads and tokens are that far from each other.
inline CopyPart part_of(const void* from, std::int64_t token_stride, std::int64_t head_stride,
                        std::int64_t bytes) {
  return {static_cast<const char*>(from), token_stride, head_stride, bytes};
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::mla_prepare_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_mla_prepare(const reference::MlaPrepareInputs& in, const reference::MlaPrepareOptions& options,
                     const reference::MlaPrepareOutputs& out, gpu::Stream stream) {
  const MlaPrepareArgs args = mla_prepare_args(in, options, out);
  gpu::with_wave_width([&]<int W>() { mla_prepare_kernels::launch_prepare<W>(args, stream); });
}

template <class Backend>
void gpu_concat_mla_absorb_q(reference::ConstView q_nope, reference::ConstView q_pe, reference::View out,
                             gpu::Stream stream) {
  using namespace mla_prepare_kernels;  // NOLINT
  const std::int64_t size = size_bytes(out.dtype), heads = out.shape[1];
  const std::int64_t n = q_nope.shape[2] * size, p = q_pe.shape[2] * size;
  launch_copy({part_of(q_nope.data, heads * n, n, n), part_of(q_pe.data, heads * p, p, p), out.as<char>(),
               static_cast<std::uint32_t>(out.shape[0] * heads), static_cast<std::uint32_t>(heads)},
              stream);
}

template <class Backend>
GpuQueryView gpu_cat_skip(reference::ConstView q_cat, std::int64_t width, bool copy_strided, void* workspace,
                          gpu::Stream stream) {
  using namespace mla_prepare_kernels;  // NOLINT
  const std::int64_t heads = q_cat.shape[1], row = q_cat.shape[2], size = size_bytes(q_cat.dtype);
  if (gpu_cat_skip_workspace(q_cat, width, copy_strided) == 0) return {q_cat.data, {heads * row, row, 1}};
  launch_copy({part_of(q_cat.data, heads * row * size, row * size, width * size),
               {},
               static_cast<char*>(workspace),
               static_cast<std::uint32_t>(q_cat.shape[0] * heads),
               static_cast<std::uint32_t>(heads)},
              stream);
  return {workspace, {heads * width, width, 1}};
}

template <class Backend>
void gpu_read_query(const GpuQueryView& view, reference::ConstView q_cat, reference::View q_all,
                    reference::View q_all_offset, reference::View q_all_strides, gpu::Stream stream) {
  using namespace mla_prepare_kernels;  // NOLINT
  const std::int64_t size = size_bytes(q_all.dtype), heads = q_all.shape[1], width = q_all.shape[2] * size;
  const std::int64_t head = GPU_FAULT(kGpuMlaViewStride) ? width : view.strides[1] * size;
  launch_copy({part_of(view.data, view.strides[0] * size, head, width),
               {},
               q_all.as<char>(),
               static_cast<std::uint32_t>(q_all.shape[0] * heads),
               static_cast<std::uint32_t>(heads)},
              stream);
  gpu::launch(write_numbers<std::int64_t>, {.grid = 1, .block = 64, .stream = stream},
              static_cast<const char*>(view.data) - q_cat.as<char>(), view.strides[0], view.strides[1],
              view.strides[2], q_all_offset.as<std::int64_t>(), q_all_strides.as<std::int64_t>());
}

template void gpu_mla_prepare<gpu::ThisBackend>(const reference::MlaPrepareInputs&,
                                                const reference::MlaPrepareOptions&,
                                                const reference::MlaPrepareOutputs&, gpu::Stream);
template void gpu_concat_mla_absorb_q<gpu::ThisBackend>(reference::ConstView, reference::ConstView,
                                                        reference::View, gpu::Stream);
template GpuQueryView gpu_cat_skip<gpu::ThisBackend>(reference::ConstView, std::int64_t, bool, void*,
                                                     gpu::Stream);
template void gpu_read_query<gpu::ThisBackend>(const GpuQueryView&, reference::ConstView, reference::View,
                                               reference::View, reference::View, gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
