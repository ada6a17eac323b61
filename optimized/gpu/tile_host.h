#pragma once
// Tiles on the host executor. The layout is that of gfx9: lane l holds row (column) l % 16 and a run of k; of c a column and a
// run of rows.
#include "optimized/gpu/tile.h"

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

template <int W, class Tile>
struct TileOperand {
  static constexpr int kCount = 16 * Tile::kDepth / W;
  typename Tile::Bits value[kCount];
  static int row(int) { return lane<W>() % 16; }
  static int k(int i) { return lane<W>() / 16 * kCount + i; }
  void load(const typename Tile::Bits* rows, int stride) {
    for (int i = 0; i < kCount; ++i) value[i] = rows[row(i) * stride + k(i)];
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
  static int row(int i) { return lane<W>() / 16 * kCount + i; }
  static int column(int) { return lane<W>() % 16; }
};

template <int W>
void tile_multiply(TileC<W>& c, const TileA<W, BF16Tile>& a, const TileB<W, BF16Tile>& b, GPU_SITE) {
  const host::TileOperands operands{a.value, b.value, nullptr, nullptr, false, c.value};
  host::wave_operation(host::WaveOp::kTileBF16, kAllLanes<W>, host::to_bits(&operands), 0, site);
}

template <int W, class Tile>
requires(Tile::kDepth == 32) void tile_multiply(TileC<W>& c, const TileOperand<W, Tile>& a,
                                                const TileOperand<W, Tile>& b, GPU_SITE) {
  const host::TileOperands operands{nullptr, nullptr, a.value, b.value, Tile::kFnuz, c.value};
  host::wave_operation(host::WaveOp::kTileFP8, kAllLanes<W>, host::to_bits(&operands), 0, site);
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
