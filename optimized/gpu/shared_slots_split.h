#pragma once
// The weights of the shared experts' slots: strided copies out of the fat MLP. Semantics: reference/shared_experts.h.
#include <cstdint>
#include <string>

#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/shared_slots.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::shared_slots_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h

inline constexpr int kCopyThreads = 256, kCopiesPerThread = 4;

// Slot j of the result, piece by piece: parts x rows runs of `run` bytes, one behind the other; row r of part p is at
// source[p] + j * slot_stride + r * row_stride.
struct SplitArgs {
  const char* source[2] = {nullptr, nullptr};  // gate and up, or down
  char* out = nullptr;
  std::int64_t run = 0, slot_stride = 0, row_stride = 0;  // bytes; in the kernel, units
  std::int64_t slots = 0, parts = 1, rows = 1;
};

// Unit: what moves at once; all sizes are multiples of it.
template <class Unit>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kCopyThreads) copy_chunks(const SplitArgs a) {
  const std::int64_t count = a.slots * a.parts * a.rows * a.run;
  std::int64_t i = static_cast<std::int64_t>(block_x()) * kCopyThreads * kCopiesPerThread + thread_x();
  auto* const out = reinterpret_cast<Unit*>(a.out);
  GPU_UNROLL for (int n = 0; n < kCopiesPerThread; ++n, i += kCopyThreads) {
    if (i >= count) return;
    const std::int64_t piece = i / a.run, row = piece % a.rows, part = piece / a.rows % a.parts,
                       slot = piece / a.rows / a.parts;
    const std::int64_t stride = GPU_FAULT(kGpuSplitRowStride) && a.rows > 1 ? a.run : a.row_stride;
    const auto* from = reinterpret_cast<const Unit*>(a.source[part]) + slot * a.slot_stride + row * stride + i % a.run;
    if constexpr (sizeof(Unit) == 16)
      store16(out + i, load16(from));
    else
      out[i] = *from;
  }
}

template <class Unit>
void launch_copy(SplitArgs a, Stream stream) {
  static Specialization& one = register_specialization(
      "shared_experts", std::string(GPU_BACKEND_NAME) + " split by " + std::to_string(sizeof(Unit)) + " bytes");
  constexpr auto kUnit = static_cast<std::int64_t>(sizeof(Unit));
  a.run /= kUnit, a.slot_stride /= kUnit, a.row_stride /= kUnit;
  constexpr std::int64_t kOfBlock = kCopyThreads * kCopiesPerThread;
  ++one.executed;
  launch(copy_chunks<Unit>,
         {.grid = static_cast<unsigned>((a.slots * a.parts * a.rows * a.run + kOfBlock - 1) / kOfBlock),
          .block = kCopyThreads,
          .stream = stream},
         a);
}

inline void copy(const SplitArgs& a, Stream stream) {
  if (a.slots * a.rows * a.run == 0) return;
  const auto bits = static_cast<std::uint64_t>(a.run | a.slot_stride | a.row_stride) |
                    reinterpret_cast<std::uintptr_t>(a.source[0]) | reinterpret_cast<std::uintptr_t>(a.source[1]) |
                    reinterpret_cast<std::uintptr_t>(a.out);
  if (bits % 16 == 0) return launch_copy<Bytes16>(a, stream);
  note_fallback("shared_experts", "pieces are not multiples of 16 bytes");
  if (bits % 4 == 0) return launch_copy<std::uint32_t>(a, stream);
  if (bits % 2 == 0) return launch_copy<std::uint16_t>(a, stream);
  launch_copy<std::uint8_t>(a, stream);
}

inline std::int64_t bytes_of(reference::ConstView v) { return v.shape.numel() * reference::size_bytes(v.dtype); }

// Chunk j of gate, then chunk j of up: rows of each, not of the two stacked.
inline void stack_chunks(reference::ConstView gate, reference::ConstView up, reference::View out, std::int64_t n,
                         Stream stream) {
  SplitArgs a;
  a.source[0] = gate.as<char>(), a.source[1] = up.as<char>(), a.out = out.as<char>();
  a.slots = n, a.parts = 2;
  a.run = a.slot_stride = bytes_of(gate) / n;
  copy(a, stream);
}

// Chunk j of every row of down: columns.
inline void split_columns(reference::ConstView down, reference::View out, std::int64_t n, Stream stream) {
  SplitArgs a;
  a.source[0] = down.as<char>(), a.out = out.as<char>();
  a.slots = n, a.rows = down.shape[0];
  a.row_stride = a.rows == 0 ? 0 : bytes_of(down) / a.rows;
  a.run = a.slot_stride = a.row_stride / n;
  copy(a, stream);
}

// All of first (and of second) to every slot.
inline void replicate(reference::ConstView first, reference::ConstView second, reference::View out, std::int64_t n,
                      Stream stream) {
  SplitArgs a;
  a.source[0] = first.as<char>(), a.source[1] = second.as<char>(), a.out = out.as<char>();
  a.slots = n, a.parts = second ? 2 : 1, a.run = bytes_of(first);
  copy(a, stream);
}

inline void split(const GpuFatSharedExpert& fat, const GpuSharedSlotViews& slots, Stream stream) {
  using reference::WeightScale;
  const std::int64_t n = slots.w13.shape[0];
  stack_chunks(fat.gate, fat.up, slots.w13, n, stream);
  split_columns(fat.down, slots.w2, n, stream);
  switch (fat.scale) {
    case WeightScale::kNone:
      return;
    case WeightScale::kTensor:
      replicate(fat.gate_scale, fat.up_scale, slots.w13_scale, n, stream);
      return replicate(fat.down_scale, {}, slots.w2_scale, n, stream);
    case WeightScale::kChannel:  // output channels of down are hidden channels: every chunk has all
      stack_chunks(fat.gate_scale, fat.up_scale, slots.w13_scale, n, stream);
      return replicate(fat.down_scale, {}, slots.w2_scale, n, stream);
    case WeightScale::kBlock:
      stack_chunks(fat.gate_scale, fat.up_scale, slots.w13_scale, n, stream);
      return split_columns(fat.down_scale, slots.w2_scale, n, stream);
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::shared_slots_kernels
