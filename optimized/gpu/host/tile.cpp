#include "optimized/gpu/host/tile.h"

#include "optimized/gpu/number_formats.h"

namespace moecheck::gpu::host {
namespace {

// The element of row r (lane % 16) at depth k, where every lane holds `count` consecutive ones.
float element(const TileOperands& o, bool of_a, WaveOp op, int i) {
  if (op == WaveOp::kTileBF16) return from_bf16((of_a ? o.a16 : o.b16)[i]);
  const std::uint8_t bits = (of_a ? o.a8 : o.b8)[i];
  return o.fnuz ? from_e4m3_bits<true>(bits) : from_e4m3_bits<false>(bits);
}

}  // namespace

void tile_product(WaveOp op, int wave, const std::uint64_t* operands) {
  const int depth = op == WaveOp::kTileBF16 ? 16 : 32, count = 16 * depth / wave, rows = 256 / wave;
  const auto lane = [&](int l) { return from_bits<const TileOperands*>(operands[l]); };
  float a[16][32], b[16][32];
  for (int l = 0; l < wave; ++l)
    for (int i = 0; i < count; ++i) {
      a[l % 16][l / 16 * count + i] = element(*lane(l), true, op, i);
      b[l % 16][l / 16 * count + i] = element(*lane(l), false, op, i);
    }
  for (int l = 0; l < wave; ++l)
    for (int i = 0; i < rows; ++i) {
      float& c = lane(l)->c[i];
      for (int k = 0; k < depth; ++k) c += a[l / 16 * rows + i][k] * b[l % 16][k];
    }
}

}  // namespace moecheck::gpu::host
