// Conversions and tile products of GPU kernels, in their portable form, against reference/number_formats.h.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "gpu_test_support.h"
#include "optimized/gpu/number_formats.h"
#include "optimized/gpu/tile.h"
#include "reference/number_formats.h"

namespace moecheck::gpu {
namespace {

using reference::DType;

template <class Decode>
void expect_decodes(DType dtype, std::uint32_t codes, Decode decode) {
  for (std::uint32_t code = 0; code < codes; ++code) {
    const double expected = reference::decode(dtype, code);
    const float got = decode(code);
    ASSERT_TRUE(std::isnan(expected) ? std::isnan(got) : expected == got) << code;
    ASSERT_EQ(std::signbit(expected), std::signbit(got)) << code;
  }
}

TEST(GpuNumberFormats, EveryCodeDecodes) {
  expect_decodes(DType::kBF16, 0x10000,
                 [](std::uint32_t c) { return from_bf16(static_cast<std::uint16_t>(c)); });
  expect_decodes(DType::kF16, 0x10000,
                 [](std::uint32_t c) { return from_f16(static_cast<std::uint16_t>(c)); });
  expect_decodes(DType::kE4M3FN, 0x100,
                 [](std::uint32_t c) { return from_e4m3fn(static_cast<std::uint8_t>(c)); });
  expect_decodes(DType::kE4M3FNUZ, 0x100,
                 [](std::uint32_t c) { return from_e4m3fnuz(static_cast<std::uint8_t>(c)); });
}

// Around every point where some format changes its mind: all numbers whose low bits are few, and their neighbours.
template <class Visit>
void critical_numbers(Visit visit) {
  for (std::uint32_t top = 0; top < 0x10000; ++top)
    for (const std::uint32_t low :
         {0x0000u, 0x0001u, 0x1000u, 0x1001u, 0x0FFFu, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
      visit(std::bit_cast<float>(top << 16 | low));
}

template <class Encode>
void expect_encodes(DType dtype, Encode encode) {
  for (const bool saturate : {false, true})
    critical_numbers([&](float v) {
      const std::uint64_t expected =
          reference::encode(dtype, static_cast<double>(v),
                            saturate ? reference::Overflow::kSaturate : reference::Overflow::kNonSaturating);
      const std::uint64_t got = encode(v, saturate ? Overflow::kSaturate : Overflow::kNonSaturating);
      if (got != expected)
        FAIL() << v << " bits " << std::bit_cast<std::uint32_t>(v) << " saturate " << saturate << ": " << got
               << ", not " << expected;
    });
}

TEST(GpuNumberFormats, EncodesBF16) { expect_encodes(DType::kBF16, to_bf16); }
TEST(GpuNumberFormats, EncodesF16) { expect_encodes(DType::kF16, to_f16); }
TEST(GpuNumberFormats, EncodesE4M3FN) { expect_encodes(DType::kE4M3FN, to_e4m3fn); }
TEST(GpuNumberFormats, EncodesE4M3FNUZ) { expect_encodes(DType::kE4M3FNUZ, to_e4m3fnuz); }

template <int W, class Tile>
GPU_KERNEL void multiply(const typename Tile::Bits* a, const typename Tile::Bits* b, float* out, int depth) {
  TileC<W> c;
  for (int k = 0; k < depth; k += Tile::kDepth) {
    TileA<W, Tile> x;
    TileB<W, Tile> y;
    x.load(a + k, depth);
    y.load(b + k, depth);
    tile_multiply<W>(c, x, y);
  }
  for (int i = 0; i < c.kCount; ++i) out[c.row(i) * 16 + c.column(i)] = c.value[i];
}

// Small integers: every sum is exact.
template <int W, class Tile>
void expect_product(DType dtype) {
  constexpr int kDepth = 64;
  std::vector<typename Tile::Bits> a(16 * kDepth), b(16 * kDepth);
  for (int i = 0; i < 16 * kDepth; ++i) {
    a[static_cast<std::size_t>(i)] =
        static_cast<typename Tile::Bits>(reference::encode(dtype, i * 7 % 13 - 6));
    b[static_cast<std::size_t>(i)] =
        static_cast<typename Tile::Bits>(reference::encode(dtype, i * 5 % 11 - 4));
  }
  std::vector<float> out(256);
  launch(multiply<W, Tile>, {.block = W, .wave = W}, a.data(), b.data(), out.data(), kDepth);
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      double sum = 0;
      for (int k = 0; k < kDepth; ++k)
        sum += reference::load(dtype, a.data(), m * kDepth + k) *
               reference::load(dtype, b.data(), n * kDepth + k);
      ASSERT_EQ(out[static_cast<std::size_t>(m * 16 + n)], sum) << m << " " << n;
    }
}

TEST(GpuTiles, ProductsAtBothWidths) {
  for_all_schedules([]<int W>(Width<W>, host::Executor&) {
    expect_product<W, BF16Tile>(DType::kBF16);
    expect_product<W, E4M3FNTile>(DType::kE4M3FN);
    expect_product<W, E4M3FNUZTile>(DType::kE4M3FNUZ);
  });
}

TEST(GpuTiles, NeedAWholeWave) {
  std::vector<std::uint16_t> a(256);
  std::vector<float> out(256);
  expect_error(host::Kind::kLane,
               [&] { launch(multiply<32, BF16Tile>, {.block = 16}, a.data(), a.data(), out.data(), 16); },
               {"lane: tile_bf16 at gpu_number_formats_test.cpp:", " needs a whole wave"});
}

}  // namespace
}  // namespace moecheck::gpu
