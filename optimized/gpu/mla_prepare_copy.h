#pragma once
// Rows of bytes from one or two places, side by side: the concatenation of q, and q as attention reads it. A wave per row.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"

namespace moecheck::MOECHECK_OPTIMIZED::mla_prepare_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h

// Rows t, h of a tensor [tokens, heads, bytes]: strides in bytes.
struct CopyPart {
  const char* from = nullptr;
  std::int64_t token_stride = 0, head_stride = 0, bytes = 0;
};
// to [rows, a.bytes + b.bytes]; row = t * heads + h.
struct CopyArgs {
  CopyPart a, b;
  char* to = nullptr;
  std::uint32_t rows = 0, heads = 1;
};

// The largest of 16, 4, 2 and 1 bytes that every row and both parts are multiples of, in memory and in length.
inline int copy_unit(const CopyArgs& c) {
  const auto at = [](const char* p) {
    return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p));
  };
  const auto strides = [&](const CopyPart& p) {
    return p.bytes == 0 ? 0 : at(p.from) | p.token_stride | p.head_stride | p.bytes;
  };
  const std::int64_t all = GPU_FAULT(kGpuMlaCopyUnit) ? strides(c.a) : strides(c.a) | strides(c.b) | at(c.to);
  return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : all % 2 == 0 ? 2 : 1;
}

template <int kUnit>
struct Unit;
template <>
struct Unit<16> {
  using Bits = Bytes16;
};
template <>
struct Unit<4> {
  using Bits = std::uint32_t;
};
template <>
struct Unit<2> {
  using Bits = std::uint16_t;
};
template <>
struct Unit<1> {
  using Bits = std::uint8_t;
};

template <int kUnit>
GPU_DEVICE typename Unit<kUnit>::Bits load_unit(const char* p) {
  if constexpr (kUnit == 16)
    return load16(p);
  else
    return *reinterpret_cast<const typename Unit<kUnit>::Bits*>(p);
}
template <int kUnit>
GPU_DEVICE void store_unit(char* p, typename Unit<kUnit>::Bits bits) {
  if constexpr (kUnit == 16)
    store16(p, bits);
  else
    *reinterpret_cast<typename Unit<kUnit>::Bits*>(p) = bits;
}

inline constexpr int kMostThreads = 256;

template <int W, int kUnit>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kMostThreads) copy_rows(const CopyArgs c) {
  constexpr int kAhead = 3;
  const std::uint32_t row = block_x() * (block_dim_x() / W) + static_cast<unsigned>(wave_in_block<W>());
  if (row >= c.rows) return;
  const std::uint32_t t = row / c.heads, h = row % c.heads;
  const char* const a = c.a.from + t * c.a.token_stride + h * c.a.head_stride;
  const char* const b = c.b.from + t * c.b.token_stride + h * c.b.head_stride;
  const auto split = static_cast<int>(c.a.bytes), bytes = split + static_cast<int>(c.b.bytes);
  char* const to = c.to + row * static_cast<std::int64_t>(bytes);
  for (int first = lane<W>() * kUnit; first < bytes; first += kAhead * W * kUnit) {
    typename Unit<kUnit>::Bits unit[kAhead] = {};
    GPU_UNROLL for (int i = 0; i < kAhead; ++i) {
      const int at = first + i * W * kUnit;
      if (at < bytes) unit[i] = load_unit<kUnit>(at < split ? a + at : b + (at - split));
    }
    GPU_UNROLL for (int i = 0; i < kAhead; ++i) {
      const int at = first + i * W * kUnit;
      if (at < bytes) store_unit<kUnit>(to + at, unit[i]);
    }
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::mla_prepare_kernels
