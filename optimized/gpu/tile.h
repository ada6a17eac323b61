#pragma once
// Matrix tiles: one wave multiplies 16x16 tiles with f32 accumulators.
//
//   c[m][n] += sum_k a[m][k] b[n][k]       m, n < 16; k < 16 (bf16) or 32 (fp8). b as weights lie: a row per output column.
//
//   gpu::TileC<W> c;                        // f32, spread over the lanes
//   gpu::TileA<W, BF16Tile> a;  a.load(rows_of_a, stride);      // any memory; stride in elements
//   gpu::TileB<W, BF16Tile> b;  b.load(rows_of_b, stride);
//   gpu::tile_multiply<W>(c, a, b);         // all lanes
//   for (int i = 0; i < c.kCount; ++i) out[c.row(i) * n + c.column(i)] = c.value[i];
//
// Which elements a lane holds is the hardware's choice: kernels ask row(), column(), k().
//   CUDA sm_80+   mma.sync m16n8k16 bf16, and m16n8k32 e4m3 from sm_89 on
//   gfx90a        v_mfma_f32_16x16x16_bf16_1k; gfx942 also v_mfma_f32_16x16x32_fp8_fp8 (e4m3fnuz)
//   gfx11         v_wmma_f32_16x16x16_bf16
//   host          emulated: products exact, sums in f32 in ascending k
// fp8 in a format that the hardware does not multiply is converted to bf16, which is exact, and multiplied as two tiles.
#include <cstdint>

#include "optimized/gpu/gpu.h"
#include "optimized/gpu/number_formats.h"

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

struct BF16Tile {
  using Bits = std::uint16_t;
  static constexpr int kDepth = 16;
};
struct E4M3FNTile {
  using Bits = std::uint8_t;
  static constexpr int kDepth = 32;
  static constexpr bool kFnuz = false;
  static GPU_DEVICE float load(std::uint8_t v) { return from_e4m3fn(v); }
};
struct E4M3FNUZTile {
  using Bits = std::uint8_t;
  static constexpr int kDepth = 32;
  static constexpr bool kFnuz = true;
  static GPU_DEVICE float load(std::uint8_t v) { return from_e4m3fnuz(v); }
};

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON

#if defined(GPU_BACKEND_CUDA)
#include "optimized/gpu/tile_cuda.h"
#elif defined(GPU_BACKEND_HIP)
#include "optimized/gpu/tile_hip.h"
#else
#include "optimized/gpu/tile_host.h"
#endif
