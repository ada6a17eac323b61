// indexer_cache's GPU kernels on the host executor: what gpu_kernels_test.cpp does not ask of every operator.
#define MOECHECK_FAULTS 1  // the host executor has the kernels of that build alone
#include "optimized/gpu/indexer_cache.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <random>

#include "optimized/gpu/host/executor.h"
#include "optimized/gpu/indexer_cache_layout.h"
#include "optimized/gpu/indexer_cache_numbers.h"

namespace moecheck::harness {
namespace {

using namespace MOECHECK_OPTIMIZED::indexer_cache_kernels;  // NOLINT
using reference::CacheLayout;
using reference::CacheOrder;
using reference::ConstView;
using reference::DType;
using reference::Shape;
using reference::View;

TEST(GpuIndexerCache, PlacesAreTheLayouts) {
  int count = 0;
  for (const CacheOrder order : {CacheOrder::kRowMajor, CacheOrder::kPreshuffled})
    for (const std::int64_t block_size : {1, 2, 4, 16, 32, 48, 64, 256})
      for (const std::int64_t head_dim : {4, 16, 20, 48, 64, 128, 256, 512})
        for (const std::int64_t groups : {1, 2, 4})
          for (const std::int64_t pad : {0, 12, 64}) {
            CacheLayout l;
            l.order = order, l.block_size = block_size, l.head_dim = head_dim,
            l.quant_block = head_dim / groups;
            if (l.check()) continue;
            l.block_stride = l.block_bytes() + pad;
            ++count;
            const CachePlaces p = cache_places(l);
            ASSERT_EQ(p.block_stride, l.stride()) << l.str();
            for (std::int64_t slot = 0; slot < 3 * block_size; slot += 1 + slot / 7) {
              const std::int64_t block = p.block_of(slot);
              const auto token = static_cast<std::int32_t>(slot - block * p.block_size);
              const std::int64_t at = block * p.block_stride;
              for (std::int32_t c = 0; c < head_dim; ++c)
                ASSERT_EQ(at + p.row(token) + p.in_row(c), l.value_at(slot, c)) << l.str() << " " << slot;
              for (std::int32_t g = 0; g < groups; ++g)
                ASSERT_EQ(at + p.scale(token) + 4 * g, l.scale_at(slot, g * l.quant_block)) << l.str();
            }
          }
  EXPECT_GT(count, 500);
}

// corrected() against the division, where its condition holds. A quotient whose code is 0 need only stay there.
TEST(GpuIndexerCache, QuotientsAreRoundedAsDivisionsAre) {
  std::mt19937 random(1);
  const auto mantissa = [&] {  // every third all ones, or nearly
    const std::uint32_t r = static_cast<std::uint32_t>(random());
    return r % 3 == 0 ? 0x7FFFFF - r / 3 % 3 : r & 0x7FFFFF;
  };
  const auto check = [](float k, float scale) {
    const float got = corrected(k, scale, 1.0F / scale), want = k / scale;
    ASSERT_EQ(std::signbit(got), std::signbit(want)) << k << " / " << scale;
    if (std::fabs(want) < 0x1p-11F)
      ASSERT_LT(std::fabs(got), 0x1p-10F) << k << " / " << scale;
    else
      ASSERT_EQ(got, want) << k << " / " << scale;
  };
  for (int i = 0; i < 100000; ++i) {
    const int exponent = static_cast<int>(random() % 211) - 90, above = static_cast<int>(random() % 24) - 14;
    const float scale = std::ldexp(1.0F + std::ldexp(static_cast<float>(mantissa()), -23), exponent);
    const float k = std::ldexp(1.0F + std::ldexp(static_cast<float>(mantissa()), -23), exponent + above);
    if (!corrects(scale)) continue;
    // Where one wrong bit is another code: next to the midpoints between codes.
    const float midpoint = std::ldexp(static_cast<float>(2 * (random() % 16) + 17), above - 5) * scale;
    for (const float number : {k, -k, midpoint})
      if (std::isfinite(number)) check(number, scale);  // of others the scale is Inf
    check(i % 2 == 0 ? 0.0F : -0.0F, scale);
    check(std::ldexp(1.0F, -149), scale);
  }
  EXPECT_FALSE(corrects(0) || corrects(std::ldexp(1.0F, -91)) || corrects(infinity()) ||
               corrects(std::nanf("")));
}

// What no case has: slots past the cache, blocks that do not exist, a table that is too short, odd addresses.
TEST(GpuIndexerCache, StaysInsideItsTensors) {
  CacheLayout l;
  l.block_size = 2, l.head_dim = 32, l.quant_block = 32;
  reference::IndexerQuant q;
  std::vector<float> k(4 * 32 + 4, 1.0F);
  std::vector<std::uint8_t> cache(static_cast<std::size_t>(2 * l.stride()), 0x5A), want = cache;
  const std::vector<std::int64_t> slots = {4, 3, std::int64_t{1} << 40, -7};
  const ConstView mapping{slots.data(), DType::kI64, Shape(4)};
  const View pool{cache.data(), DType::kU8, Shape(2, l.stride())};
  const std::vector<std::int64_t> valid = {-1, 3, -1, -1};
  for (const int wave : {32, 64})
    for (const std::size_t odd : {0, 1}) {  // k at a multiple of 16 bytes, and 4 behind
      const ConstView keys{k.data() + odd, DType::kF32, Shape(4, 32)};
      reference::indexer_k_quant_and_cache(q, l, keys, 32, {valid.data(), DType::kI64, Shape(4)}, 4,
                                           want.data());
      gpu::host::Executor executor({.wave = wave});
      const gpu::host::UseExecutor use(executor);
      MOECHECK_OPTIMIZED::gpu_indexer_k_quant_and_cache<gpu::Host>(q, l, keys, 32, mapping, 4, pool, nullptr);
      EXPECT_EQ(cache, want) << wave << " " << odd;
    }
  EXPECT_THROW(MOECHECK_OPTIMIZED::gpu_indexer_k_quant_and_cache<gpu::Host>(
                   q, l, {k.data(), DType::kF32, Shape(4, 32)}, 32, mapping, 5, pool, nullptr),
               std::invalid_argument);

  const std::vector<std::int32_t> table = {2, 0, 1, -1},
                                  lengths = {0, 3, 8};  // [2, 2]; the second has 5 tokens
  std::vector<std::uint8_t> dst(8 * 32 + 1, 0x11);
  std::vector<std::uint32_t> scales(8, 0x22);
  for (std::uint8_t* to : {dst.data(), dst.data() + 1})
    MOECHECK_OPTIMIZED::gpu_cp_gather_indexer_k_quant_cache<gpu::Host>(
        l, pool, {{table.data(), DType::kI32, Shape(2, 2)}, 2, {lengths.data(), DType::kI32, Shape(3)}}, 2,
        {to, DType::kE4M3FN, Shape(8, 32)}, {scales.data(), DType::kF32, Shape(8, 1)}, nullptr);
  const std::vector<bool> from_cache = {false, false, true, true, true, false, false, false};
  for (std::size_t t = 0; t < 8; ++t) EXPECT_EQ(scales[t] != 0x22, from_cache[t]) << t;
  EXPECT_EQ(dst[1], 0x11);
  EXPECT_EQ(dst[1 + 32 * 4], 0x7E);  // slot 3: 1.0 by its own scale
  EXPECT_EQ(dst[1 + 32 * 5], 0x11);
}

// Blocks 1 GiB apart: what of the cache no token lies in is never backed by memory.
TEST(GpuIndexerCache, OffsetsAre64BitsWide) {
  CacheLayout l;
  l.block_size = 1, l.head_dim = l.quant_block = 128, l.block_stride = std::int64_t{1} << 30;
  constexpr std::int64_t kBlocks = 6;
  const auto bytes = static_cast<std::size_t>(kBlocks * l.stride());
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) GTEST_SKIP() << "no address space of " << bytes << " bytes";
  const View pool{memory, DType::kU8, Shape(kBlocks, l.stride())};
  std::vector<float> k(kBlocks * 128);
  for (std::size_t i = 0; i < k.size(); ++i) k[i] = static_cast<float>(i / 128 + 1);
  const std::vector<std::int32_t> slots = {5, 4, 3, 2, 1, 0}, lengths = {0, kBlocks};
  MOECHECK_OPTIMIZED::gpu_indexer_k_quant_and_cache<gpu::Host>({}, l, {k.data(), DType::kF32, Shape(kBlocks, 128)},
                                                      128, {slots.data(), DType::kI32, Shape(kBlocks)},
                                                      kBlocks, pool, nullptr);
  std::vector<std::uint8_t> dst(kBlocks * 128);
  std::vector<float> scales(kBlocks);
  MOECHECK_OPTIMIZED::gpu_cp_gather_indexer_k_quant_cache<gpu::Host>(
      l, pool,
      {{slots.data(), DType::kI32, Shape(1, kBlocks)}, kBlocks, {lengths.data(), DType::kI32, Shape(2)}},
      kBlocks, {dst.data(), DType::kE4M3FN, Shape(kBlocks, 128)},
      {scales.data(), DType::kF32, Shape(kBlocks, 1)}, nullptr);
  for (std::size_t t = 0; t < kBlocks; ++t) {
    EXPECT_EQ(scales[t], static_cast<float>(t + 1) / 448.0F);
    EXPECT_EQ(static_cast<const std::uint8_t*>(memory)[(5 - t) << 30], 0x7E);
  }
  for (const std::uint8_t code : dst) EXPECT_EQ(code, 0x7E);
  munmap(memory, bytes);
}

TEST(GpuIndexerCache, RefusesOtherLayouts) {
  const auto refusal = MOECHECK_OPTIMIZED::gpu_indexer_cache_unsupported;
  CacheLayout l;
  EXPECT_TRUE(refusal(l));  // no scales
  l.quant_block = 128;
  EXPECT_FALSE(refusal(l));
  CacheLayout other = l;
  other.dtype = DType::kBF16;
  EXPECT_EQ(refusal(other), "layout row_major:bf16:64x128:q128: the GPU kernels take fp8 with scales");
  other = l, other.split = 64;
  EXPECT_TRUE(refusal(other));
  other = l, other.block_size = 1 << 20, other.head_dim = other.quant_block = 2048;
  EXPECT_EQ(refusal(other), "blocks of 2151677952 bytes: the GPU kernels take up to 2 GiB");
}

}  // namespace
}  // namespace moecheck::harness
