#pragma once
// Tiles on HIP. gfx9, waves of 64: MFMA; lane l holds row l % 16, a run of k from l / 16 on, and of c column l % 16 and four rows.
// gfx11, waves of 32: WMMA; a lane holds a whole row, both halves of the wave the same ones, and of c every second row.
#include "optimized/gpu/tile.h"

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

using TileShort4 = short __attribute__((ext_vector_type(4)));
using TileShort16 = short __attribute__((ext_vector_type(16)));
using TileFloat4 = float __attribute__((ext_vector_type(4)));
using TileFloat8 = float __attribute__((ext_vector_type(8)));

template <int W, class Tile>
struct TileOperand {
  using Bits = typename Tile::Bits;
  static constexpr int kCount = W == 64 ? Tile::kDepth / 4 : Tile::kDepth;
  Bits value[kCount];
  static GPU_DEVICE int row(int) { return lane<W>() % 16; }
  static GPU_DEVICE int k(int i) { return W == 64 ? lane<W>() / 16 * kCount + i : i; }
  GPU_DEVICE void load(const Bits* rows, int stride) {
    GPU_UNROLL for (int i = 0; i < kCount; ++i) value[i] = rows[row(i) * stride + k(i)];
  }
};
template <int W, class Tile>
using TileA = TileOperand<W, Tile>;
template <int W, class Tile>
using TileB = TileOperand<W, Tile>;

template <int W>
struct TileC {
  static constexpr int kCount = 256 / W;
  float value[kCount] = {};
  static GPU_DEVICE int row(int i) { return W == 64 ? lane<W>() / 16 * 4 + i : 2 * i + lane<W>() / 16; }
  static GPU_DEVICE int column(int) { return lane<W>() % 16; }
};

// values of bf16: 4 a lane with W 64, 16 with W 32. A kernel for the other width is compiled too, and never run.
template <int W>
GPU_DEVICE void tile_bf16([[maybe_unused]] TileC<W>& c, [[maybe_unused]] const std::uint16_t* a,
                          [[maybe_unused]] const std::uint16_t* b) {
#if defined(__GFX9__)
  if constexpr (W == 64) {
    TileShort4 x, y;
    TileFloat4 z;
    __builtin_memcpy(&x, a, sizeof x);
    __builtin_memcpy(&y, b, sizeof y);
    __builtin_memcpy(&z, c.value, sizeof z);
    z = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(x, y, z, 0, 0, 0);
    __builtin_memcpy(c.value, &z, sizeof z);
    return;
  }
#elif defined(__GFX11__)
  if constexpr (W == 32) {
    TileShort16 x, y;
    TileFloat8 z;
    __builtin_memcpy(&x, a, sizeof x);
    __builtin_memcpy(&y, b, sizeof y);
    __builtin_memcpy(&z, c.value, sizeof z);
    z = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(x, y, z);
    __builtin_memcpy(c.value, &z, sizeof z);
    return;
  }
#endif
  __builtin_trap();
}

template <int W>
GPU_DEVICE void tile_multiply(TileC<W>& c, const TileOperand<W, BF16Tile>& a,
                              const TileOperand<W, BF16Tile>& b) {
  tile_bf16<W>(c, a.value, b.value);
}

template <int W, class Tile>
requires(Tile::kDepth == 32) GPU_DEVICE
    void tile_multiply(TileC<W>& c, const TileOperand<W, Tile>& a, const TileOperand<W, Tile>& b) {
#if defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__)
  if constexpr (W == 64 && Tile::kFnuz) {
    long x, y;
    TileFloat4 z;
    __builtin_memcpy(&x, a.value, sizeof x);
    __builtin_memcpy(&y, b.value, sizeof y);
    __builtin_memcpy(&z, c.value, sizeof z);
    z = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(x, y, z, 0, 0, 0);
    __builtin_memcpy(c.value, &z, sizeof z);
    return;
  }
#endif
  // As bf16, exactly. Any order of k is right as long as a and b agree.
  constexpr int kHalf = TileOperand<W, Tile>::kCount / 2;
  GPU_UNROLL for (int part = 0; part < 2; ++part) {
    std::uint16_t x[kHalf], y[kHalf];
    GPU_UNROLL for (int i = 0; i < kHalf; ++i) {
      x[i] = static_cast<std::uint16_t>(float_bits(Tile::load(a.value[part * kHalf + i])) >> 16);
      y[i] = static_cast<std::uint16_t>(float_bits(Tile::load(b.value[part * kHalf + i])) >> 16);
    }
    tile_bf16<W>(c, x, y);
  }
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
