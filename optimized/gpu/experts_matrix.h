#pragma once
// bf16 numbers, and e4m3 as bf16 (exactly), in matrix tiles: the parts of both kernels. A wave multiplies tiles of 16 slots with two
// strips of 16 weight rows: gate and up of the same columns, or 32 columns of y.
//
// An element's bits do not depend on the number of slots: few slots and many add the same products in the same order. The depth is
// cut into segments by its length alone; a segment is summed tile by tile in steps of 32 (e4m3: the products of a block of 128,
// then the blocks with their scales), then the segments in ascending order.
#include "optimized/gpu/experts_slots.h"
#include "optimized/gpu/tile.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

inline constexpr int kStepDepth = 32, kMostSegments = 8;

GPU_HOST_DEVICE int segments_of(int depth) { return depth >= 4096 ? kMostSegments : depth >= 1024 ? 4 : 1; }
GPU_HOST_DEVICE int segment_length(int depth) {
  const int blocks = (depth + static_cast<int>(kScaleBlock) - 1) / static_cast<int>(kScaleBlock),
            n = segments_of(depth);
  return (blocks + n - 1) / n * static_cast<int>(kScaleBlock);
}

// Eight consecutive numbers of a row as they lie in memory: bf16, or e4m3.
template <bool kFp8>
struct Chunk;
template <>
struct Chunk<false> {
  Bytes16 bits = {};
  GPU_DEVICE void load(const void* p, std::int64_t row, int k, int depth, bool vectors) {
    bits = load_packed<StoredBF16>(static_cast<const std::uint16_t*>(p) + row, k, depth, vectors);
  }
  GPU_DEVICE Bytes16 as_bf16(bool) const { return bits; }
};
template <>
struct Chunk<true> {
  struct alignas(8) Codes {
    std::uint32_t word[2];
  };
  Codes codes = {};
  GPU_DEVICE void load(const void* p, std::int64_t row, int k, int depth, bool vectors) {
    const auto* from = static_cast<const std::uint8_t*>(p) + row + k;
    codes = {};
    if (vectors) {
      if (k < depth) codes = *reinterpret_cast<const Codes*>(from);
      return;
    }
    std::uint8_t all[8] = {};
    EXPERTS_ROLLED for (int i = 0; i < 8; ++i) if (k + i < depth) all[i] = from[i];
    __builtin_memcpy(&codes, all, sizeof codes);
  }
  GPU_DEVICE Bytes16 as_bf16(bool fnuz) const {
    Bytes16 wide;
    GPU_UNROLL for (int i = 0; i < 4; ++i) {
      const std::uint32_t two = codes.word[i / 2] >> (i % 2 * 16);
      const auto low = static_cast<std::uint8_t>(two), high = static_cast<std::uint8_t>(two >> 8);
      wide.word[i] = float_bits(fnuz ? from_e4m3fnuz(low) : from_e4m3fn(low)) >> 16 |
                     (float_bits(fnuz ? from_e4m3fnuz(high) : from_e4m3fn(high)) & 0xFFFF0000);
    }
    return wide;
  }
};

// 32 elements of depth of a tile's rows, as two tiles: a lane has runs of consecutive elements, first those of one tile, then those
// of the other. Which k a tile calls them does not matter as long as both sides agree.
template <int W>
struct Fragment {
#if defined(GPU_BACKEND_CUDA)
  static constexpr int kRun = 4, kRows = 2;
  static GPU_DEVICE int row(int h) { return lane<W>() / 4 + 8 * h; }
  static GPU_DEVICE int k() { return lane<W>() % 4 * 2 * kRun; }
  static GPU_DEVICE constexpr int index_in_a(int h, int j) { return j / 2 * 4 + h * 2 + j % 2; }
  static GPU_DEVICE constexpr int index_in_b(int h, int j) { return h * 4 + j; }
#else
  static constexpr int kRun = TileA<W, BF16Tile>::kCount, kRows = 1;
  static GPU_DEVICE int row(int) { return lane<W>() % 16; }
  static GPU_DEVICE int k() { return kRun == 16 ? 0 : lane<W>() / 16 * 2 * kRun; }
  static GPU_DEVICE constexpr int index_in_a(int, int j) { return j; }
  static GPU_DEVICE constexpr int index_in_b(int, int j) { return j; }
#endif
  static constexpr int kChunks = 2 * kRun / 8;  // of a row
};

// Chunk c of row h: bf16 numbers.
template <int W>
GPU_DEVICE void set_chunk(TileA<W, BF16Tile> (&tiles)[2], int h, int c, const Bytes16& bits) {
  using F = Fragment<W>;
  GPU_UNROLL for (int i = 0; i < 4; ++i) {
    const int e = c * 8 + 2 * i;
    __builtin_memcpy(&tiles[e / F::kRun].value[F::index_in_a(h, e % F::kRun)], &bits.word[i], 4);
  }
}
template <int W>
struct WeightTiles {
  TileB<W, BF16Tile> tile[2];
  GPU_DEVICE void set(int h, int c, const Bytes16& bits) {
    using F = Fragment<W>;
    GPU_UNROLL for (int i = 0; i < 4; ++i) {
      const int e = c * 8 + 2 * i;
      __builtin_memcpy(&tile[e / F::kRun].value[F::index_in_b(h, e % F::kRun)], &bits.word[i], 4);
    }
  }
};

// The weight row of a strip's column: gate (strip 0) and up (1) of a column, or one of 32 columns. Past the last column the last,
// whose results nobody stores.
template <bool kDown>
GPU_DEVICE int weight_row(const GemmArgs& a, int first_column, int strip, int i) {
  int c = first_column + (kDown ? strip * kMatrixTile : 0) + i;
  if (c >= a.columns) c = a.columns - 1;
  if (kDown) return c;
  return strip == 0 ? gate_row(a.activation, a.columns, c) : up_row(a.activation, a.columns, c);
}
template <bool kDown>
constexpr int kStripColumns = kDown ? 2 * kMatrixTile : kMatrixTile;

// sum += block * x scale * weight scale, of block b of the depth; block = 0.
template <int W, bool kDown>
GPU_DEVICE void add_block(const GemmArgs& a, const SlotRun& run, int first_slot, int first_column, int b,
                          TileC<W> (&block)[2], TileC<W> (&sum)[2]) {
  const std::int64_t blocks = (a.depth + kScaleBlock - 1) / kScaleBlock;
  GPU_UNROLL for (int s = 0; s < 2; ++s) GPU_UNROLL for (int i = 0; i < TileC<W>::kCount; ++i) {
    const int slot = first_slot + TileC<W>::row(i);
    float v = block[s].value[i];
    block[s].value[i] = 0;
    if (slot >= run.count) continue;
    if (a.x_scale != nullptr) v *= a.x_scale[x_row(a, run.slots[slot]) * blocks + b];
    const int row = weight_row<kDown>(a, first_column, s, TileC<W>::column(i));
    sum[s].value[i] +=
        v * scales_of_row(a, run.expert, GPU_FAULT(kGpuExpertsScaleOfFirstRow) ? row / 256 * 256 : row)[b];
  }
}

template <int W>
GPU_DEVICE void add_tiles(TileC<W> (&sum)[2], TileC<W> (&part)[2]) {
  GPU_UNROLL for (int s = 0; s < 2; ++s) GPU_UNROLL for (int i = 0; i < TileC<W>::kCount; ++i) {
    sum[s].value[i] += part[s].value[i];
    part[s].value[i] = 0;
  }
}

template <int W, bool kDown>
GPU_DEVICE void store_tiles(const GemmArgs& a, const SlotRun& run, int first_slot, int first_column,
                            const TileC<W> (&sum)[2]) {
  GPU_UNROLL for (int i = 0; i < TileC<W>::kCount; ++i) {
    int row = first_slot + TileC<W>::row(i);
    if (row >= run.count) {
      if (!GPU_FAULT(kGpuExpertsTailSlots)) continue;
      row = first_slot;  // padding repeats a slot
    }
    const std::int64_t slot = run.slots[row];
    const int c = first_column + TileC<W>::column(i);
    if constexpr (kDown) {
      if (c < a.columns) store_slot(a, slot, c, sum[0].value[i]);
      if (c + kMatrixTile < a.columns) store_slot(a, slot, c + kMatrixTile, sum[1].value[i]);
    } else if (c < a.columns) {
      store_activated(a, slot, c, sum[0].value[i], sum[GPU_FAULT(kGpuExpertsNeighboursUp) ? 0 : 1].value[i]);
    }
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
