#pragma once
// Rows of hidden_states to the rows of their slots: a wave moves a part of a row, four loads of each lane in flight.
#include <cstdint>
#include <string>

#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/moe_align.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::moe_align_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h

inline constexpr int kRowWaves = 4, kRowLoads = 4;

struct RowArgs {
  const void* hidden_states = nullptr;  // [tokens, units]
  const std::int32_t* slot_of_row = nullptr;
  void* permuted = nullptr;  // [rows, units]
  std::int64_t rows = 0, tokens = 0;
  std::int32_t units = 0, parts = 0;  // of a row; blocks that move one
  std::int32_t topk = 1;
  bool k_major = false;
};

template <int W, class Unit>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kRowWaves* W) move_parts(const RowArgs a) {
  const std::int64_t row = block_x() / static_cast<unsigned>(a.parts);
  const int waves = static_cast<int>(block_dim_x()) / W,
            part = static_cast<int>(block_x() % static_cast<unsigned>(a.parts)) * waves + wave_in_block<W>();
  const std::int32_t slot = a.slot_of_row[row];
  if (slot < 0) return;  // padding: what is there stays
  const std::int64_t token = a.k_major ? slot % a.tokens : slot / a.topk;
  const auto* const from = static_cast<const Unit*>(a.hidden_states) + token * a.units;
  auto* const to = static_cast<Unit*>(a.permuted) + row * a.units;
  const int first = part * kRowLoads * W + lane<W>();
  const int units = GPU_FAULT(kGpuPermuteTail) && a.units > W ? a.units / W * W : a.units;
  Unit unit[kRowLoads];
  GPU_UNROLL for (int i = 0; i < kRowLoads; ++i) {
    if (first + i * W >= units) continue;
    if constexpr (sizeof(Unit) == 16)
      unit[i] = load16(from + first + i * W);
    else
      unit[i] = from[first + i * W];
  }
  GPU_UNROLL for (int i = 0; i < kRowLoads; ++i) {
    if (first + i * W >= units) continue;
    if constexpr (sizeof(Unit) == 16)
      store16(to + first + i * W, unit[i]);
    else
      to[first + i * W] = unit[i];
  }
}

template <int W, class Unit>
void launch_rows(RowArgs a, std::int64_t bytes, Stream stream) {
  static Specialization& one =
      register_specialization("moe_align", std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) + " rows by " +
                                               std::to_string(sizeof(Unit)) + " bytes");
  ++one.executed;
  a.units = static_cast<std::int32_t>(bytes / static_cast<std::int64_t>(sizeof(Unit)));
  const int waves = (a.units + kRowLoads * W - 1) / (kRowLoads * W), of_block = waves < kRowWaves ? waves : kRowWaves;
  a.parts = (waves + of_block - 1) / of_block;
  launch(move_parts<W, Unit>,
         {.grid = static_cast<unsigned>(a.rows * a.parts),
          .block = static_cast<unsigned>(of_block * W),
          .stream = stream,
          .wave = W},
         a);
}

inline void move_rows(const reference::PermuteOptions& o, reference::ConstView hidden_states,
                      reference::ConstView slot_of_row, reference::View permuted, Stream stream) {
  RowArgs a;
  a.hidden_states = hidden_states.data;
  a.slot_of_row = slot_of_row.as<std::int32_t>();
  a.permuted = permuted.data;
  a.rows = slot_of_row.shape.numel();
  a.tokens = hidden_states.shape[0];
  a.topk = static_cast<std::int32_t>(o.topk);
  a.k_major = o.index == reference::SlotIndex::kKMajor;
  const std::int64_t bytes = hidden_states.shape[1] * reference::size_bytes(hidden_states.dtype);
  if (a.rows == 0 || a.tokens == 0 || bytes == 0) return;
  const auto bits = reinterpret_cast<std::uintptr_t>(a.hidden_states) | reinterpret_cast<std::uintptr_t>(a.permuted) |
                    static_cast<std::uintptr_t>(bytes);
  with_wave_width([&]<int W>() {
    if (bits % 16 == 0) return launch_rows<W, Bytes16>(a, bytes, stream);
    note_fallback("moe_align", "rows are not multiples of 16 bytes");
    if (bits % 2 == 0) return launch_rows<W, std::uint16_t>(a, bytes, stream);
    launch_rows<W, std::uint8_t>(a, bytes, stream);
  });
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::moe_align_kernels
