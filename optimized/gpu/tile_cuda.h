#pragma once
// Tiles on CUDA: mma.sync multiplies 16x8, so a tile is two of them, columns 0..7 and 8..15.
// PTX ISA, "Matrix Fragments for mma.m16n8k16 / m16n8k32": with g = lane / 4 and t = lane % 4, register r of a holds row
// g + 8 (r % 2), a run of k from t * run + (r / 2) * depth / 2; b likewise without the rows; c row g + 8 (i / 2 % 2), column 2 t + i % 2.
#include "optimized/gpu/tile.h"

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

// Runs of consecutive k are 4 bytes: 2 bf16 or 4 fp8.
template <int W, class Tile>
struct TileA {
  using Bits = typename Tile::Bits;
  static constexpr int kRun = 4 / static_cast<int>(sizeof(Bits)), kCount = 4 * kRun;
  Bits value[kCount];
  static GPU_DEVICE int row(int i) { return lane<W>() / 4 + 8 * (i / kRun % 2); }
  static GPU_DEVICE int k(int i) {
    return lane<W>() % 4 * kRun + i % kRun + Tile::kDepth / 2 * (i / kRun / 2);
  }
  GPU_DEVICE void load(const Bits* rows, int stride) {
    GPU_UNROLL for (int i = 0; i < kCount; ++i) value[i] = rows[row(i) * stride + k(i)];
  }
};
template <int W, class Tile>
struct TileB {
  using Bits = typename Tile::Bits;
  static constexpr int kRun = 4 / static_cast<int>(sizeof(Bits)), kCount = 4 * kRun;
  Bits value[kCount];
  static GPU_DEVICE int row(int i) { return lane<W>() / 4 + 8 * (i / kRun / 2); }
  static GPU_DEVICE int k(int i) {
    return lane<W>() % 4 * kRun + i % kRun + Tile::kDepth / 2 * (i / kRun % 2);
  }
  GPU_DEVICE void load(const Bits* rows, int stride) {
    GPU_UNROLL for (int i = 0; i < kCount; ++i) value[i] = rows[row(i) * stride + k(i)];
  }
};
template <int W>
struct TileC {
  static constexpr int kCount = 8;
  float value[kCount] = {};
  static GPU_DEVICE int row(int i) { return lane<W>() / 4 + 8 * (i / 2 % 2); }
  static GPU_DEVICE int column(int i) { return lane<W>() % 4 * 2 + i % 2 + 8 * (i / 4); }
};

template <class Bits>
GPU_DEVICE std::uint32_t tile_register(const Bits* values) {
  std::uint32_t r;
  __builtin_memcpy(&r, values, 4);
  return r;
}

GPU_DEVICE void mma_bf16(float* c, std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                         std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <int W>
GPU_DEVICE void tile_multiply(TileC<W>& c, const TileA<W, BF16Tile>& a, const TileB<W, BF16Tile>& b) {
  GPU_UNROLL for (int half = 0; half < 2; ++half) mma_bf16(
      c.value + 4 * half, tile_register(a.value), tile_register(a.value + 2), tile_register(a.value + 4),
      tile_register(a.value + 6), tile_register(b.value + 4 * half), tile_register(b.value + 4 * half + 2));
}

// Two fp8 as bf16, exactly.
template <class Tile>
GPU_DEVICE std::uint32_t tile_widened(const std::uint8_t* values) {
  return float_bits(Tile::load(values[0])) >> 16 | (float_bits(Tile::load(values[1])) & 0xFFFF0000);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
constexpr bool kHardwareE4M3FN = true;
#else
constexpr bool kHardwareE4M3FN = false;
#endif

template <int W, class Tile>
requires(Tile::kDepth == 32) GPU_DEVICE
    void tile_multiply(TileC<W>& c, const TileA<W, Tile>& a, const TileB<W, Tile>& b) {
  GPU_UNROLL for (int half = 0; half < 2; ++half) {
    float* d = c.value + 4 * half;
    const std::uint8_t* w = b.value + 8 * half;
    if constexpr (kHardwareE4M3FN && !Tile::kFnuz) {
      asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
          "{%0,%1,%2,%3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(tile_register(a.value)), "r"(tile_register(a.value + 4)), "r"(tile_register(a.value + 8)),
            "r"(tile_register(a.value + 12)), "r"(tile_register(w)), "r"(tile_register(w + 4)));
    } else {  // any order of k is right as long as a and b agree: a run of 4 becomes two runs of 2
      GPU_UNROLL for (int part = 0; part < 2; ++part) {
        const std::uint8_t *lo = a.value + 8 * part, *hi = lo + 4;
        mma_bf16(d, tile_widened<Tile>(lo), tile_widened<Tile>(hi), tile_widened<Tile>(lo + 2),
                 tile_widened<Tile>(hi + 2), tile_widened<Tile>(w + 4 * part),
                 tile_widened<Tile>(w + 4 * part + 2));
      }
    }
  }
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
