// CacheLayout: worked examples, one-to-one for every supported shape, its inverse, its text and its refusals.
#include "reference/cache_layout.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

namespace moecheck::reference {
namespace {

constexpr std::int64_t kBlockSizes[] = {1, 16, 32, 48, 64, 128, 256};
constexpr DType kDTypes[] = {DType::kE4M3FN, DType::kBF16, DType::kF32};

CacheLayout layout_of(CacheOrder order, DType dtype, std::int64_t block_size, std::int64_t head_dim,
                      std::int64_t quant_block = 0, std::int64_t split = 0, std::int64_t block_stride = 0) {
  CacheLayout l;
  l.order = order, l.dtype = dtype, l.block_size = block_size, l.head_dim = head_dim;
  l.quant_block = quant_block, l.split = split, l.block_stride = block_stride;
  return l;
}

// Every supported shape, with and without scales, split and padding.
template <class Visit>
void each_layout(Visit visit) {
  for (const CacheOrder order : {CacheOrder::kRowMajor, CacheOrder::kPreshuffled})
    for (const DType dtype : kDTypes)
      for (const std::int64_t block_size : kBlockSizes) {
        if (order == CacheOrder::kPreshuffled && block_size == 1) continue;
        for (std::int64_t head_dim = 16; head_dim <= 256; head_dim += 16) {
          visit(layout_of(order, dtype, block_size, head_dim));
          if (head_dim % 64 != 0) continue;
          visit(layout_of(order, dtype, block_size, head_dim, 16, 0, 0));
          CacheLayout padded = layout_of(order, dtype, block_size, head_dim, head_dim);
          padded.block_stride = padded.block_bytes() + 16;
          visit(padded);
        }
        visit(layout_of(order, dtype, block_size, 512 + 64, 0, order == CacheOrder::kRowMajor ? 0 : 512));
      }
}

TEST(CacheLayout, OffsetsAreTheWorkedExamples) {
  const CacheLayout l = layout_of(CacheOrder::kPreshuffled, DType::kE4M3FN, 64, 128, 128);
  struct Example {
    std::int64_t token, channel, offset;
  };
  for (const Example e : {Example{0, 0, 0},
                          {0, 15, 15},
                          {0, 16, 256},
                          {0, 127, 1807},
                          {1, 0, 16},
                          {1, 16, 272},
                          {15, 127, 2047},
                          {16, 0, 2048},
                          {17, 33, 2577},
                          {37, 77, 5213},
                          {63, 127, 8191}}) {
    EXPECT_EQ(l.value_offset(e.token, e.channel), e.offset) << e.token << ", " << e.channel;
    const CacheLayout other = layout_of(CacheOrder::kPreshuffled, DType::kE4M3FN, 256, 128);
    EXPECT_EQ(other.value_offset(e.token, e.channel), e.offset) << "offsets depend on block_size";
  }
  EXPECT_EQ(l.block_bytes(), 8448);
  EXPECT_EQ(l.scale_offset(0, 0), 8192);
  EXPECT_EQ(l.scale_offset(5, 100), 8192 + 20);
  EXPECT_EQ(layout_of(CacheOrder::kRowMajor, DType::kE4M3FN, 1, 128, 128).block_bytes(), 132);
}

// off = (t/16) 16 D + (c/16) 256 + (t%16) 16 + c%16, written down once more.
TEST(CacheLayout, ByteTilesFollowTheFormula) {
  for (const std::int64_t dim : {32, 64, 128, 256}) {
    const CacheLayout l = layout_of(CacheOrder::kPreshuffled, DType::kE4M3FNUZ, 64, dim);
    for (std::int64_t t = 0; t < 64; ++t)
      for (std::int64_t c = 0; c < dim; ++c)
        ASSERT_EQ(l.value_offset(t, c), t / 16 * 16 * dim + c / 16 * 256 + t % 16 * 16 + c % 16);
  }
}

// MLA caches in bf16, K_WIDTH = 8 elements: off = (t/16) 16 D + (c/8) 128 + (t%16) 8 + c%8 in elements, nope and rope parts each
// for themselves, the rope part behind all of the block's nope parts.
TEST(CacheLayout, Bf16TilesOfASplitRowFollowTheFormula) {
  const std::int64_t nope = 512, rope = 64, block = 64;
  const CacheLayout l = layout_of(CacheOrder::kPreshuffled, DType::kBF16, block, nope + rope, 0, nope);
  const auto tiled = [](std::int64_t t, std::int64_t c, std::int64_t dim) {
    return t / 16 * 16 * dim + c / 8 * 128 + t % 16 * 8 + c % 8;
  };
  for (std::int64_t t = 0; t < block; ++t)
    for (std::int64_t c = 0; c < nope + rope; ++c) {
      const std::int64_t element = c < nope ? tiled(t, c, nope) : block * nope + tiled(t, c - nope, rope);
      ASSERT_EQ(l.value_offset(t, c), 2 * element) << t << ", " << c;
    }
}

TEST(CacheLayout, EveryByteOfABlockBelongsToOnePlaceAndIsFoundAgain) {
  using Kind = CacheLayout::Place::Kind;
  int layouts = 0;
  each_layout([&](const CacheLayout& l) {
    ASSERT_FALSE(l.check()) << *l.check();
    ++layouts;
    const std::int64_t size = size_bytes(l.dtype);
    std::vector<std::uint8_t> owners(static_cast<std::size_t>(l.stride()), 0), once(owners.size(), 1);
    std::fill(once.begin() + l.block_bytes(), once.end(), std::uint8_t{0});
    const auto take = [&](std::int64_t offset, std::int64_t bytes, Kind kind, std::int64_t token,
                          std::int64_t channel) {
      if (offset < 0 || offset + bytes > l.stride()) return false;
      for (std::int64_t b = 0; b < bytes; ++b) ++owners[static_cast<std::size_t>(offset + b)];
      const std::int64_t byte = channel % bytes;
      return l.place(offset + byte) == CacheLayout::Place{kind, token, channel, byte};
    };
    for (std::int64_t t = 0; t < l.block_size; ++t) {
      for (std::int64_t c = 0; c < l.head_dim; ++c)
        if (!take(l.value_offset(t, c), size, Kind::kValue, t, c))
          FAIL() << l.str() << " value " << t << ", " << c;
      for (std::int64_t c = 0; c < l.scales() * l.quant_block; c += l.quant_block)
        if (!take(l.scale_offset(t, c), 4, Kind::kScale, t, c))
          FAIL() << l.str() << " scale " << t << ", " << c;
    }
    ASSERT_TRUE(owners == once) << l.str() << ": a byte belongs to two places, or to none";
    for (std::int64_t b = l.block_bytes(); b < l.stride(); ++b)
      ASSERT_EQ(l.place(b).kind, Kind::kPadding) << l.str();
  });
  EXPECT_EQ(layouts, (7 + 6) * 3 * (16 + 2 * 4 + 1));
}

TEST(CacheLayout, RunsLieSideBySideAndNoLonger) {
  each_layout([](const CacheLayout& l) {
    const std::int64_t size = size_bytes(l.dtype), run = l.run();
    ASSERT_EQ(l.head_dim % run, 0) << l.str();
    for (const std::int64_t t : {std::int64_t{0}, l.block_size / 2, l.block_size - 1})
      for (std::int64_t c = 0; c < l.head_dim; ++c) {
        const std::int64_t first = l.value_offset(t, c / run * run);
        if (l.value_offset(t, c) != first + c % run * size) FAIL() << l.str() << " " << t << " " << c;
      }
    if (l.order == CacheOrder::kPreshuffled && l.head_dim > run) {
      EXPECT_NE(l.value_offset(1, run), l.value_offset(1, 0) + run * size);
    }
  });
}

TEST(CacheLayout, SlotsCountThroughAllBlocksWithPadding) {
  const CacheLayout l = layout_of(CacheOrder::kPreshuffled, DType::kE4M3FN, 16, 32, 32, 0, 1024);
  EXPECT_EQ(l.value_at(16 * 5 + 3, 17), 5 * 1024 + l.value_offset(3, 17));
  EXPECT_EQ(l.scale_at(16 * 5 + 3, 17), 5 * 1024 + l.scale_offset(3, 17));
  const std::int64_t far = std::int64_t{1} << 40;
  EXPECT_EQ(l.value_at(far, 0), far / 16 * 1024) << "offsets are 64 bits wide";
}

// A flat reader of a shuffled cache sees other tokens: but for channel group 0 of a tile's first token.
TEST(CacheLayout, OrdersAgreeWhereTestsMustNotLook) {
  const CacheLayout flat = layout_of(CacheOrder::kRowMajor, DType::kE4M3FN, 16, 128);
  const CacheLayout tiled = layout_of(CacheOrder::kPreshuffled, DType::kE4M3FN, 16, 128);
  int same = 0;
  for (std::int64_t t = 0; t < 16; ++t)
    for (std::int64_t c = 0; c < 128; ++c)
      same += flat.value_offset(t, c) == tiled.value_offset(t, c) ? 1 : 0;
  EXPECT_EQ(same, 32);  // 16 at the start of the block, and 16 at its end
}

TEST(CacheLayout, RefusalsNameTheValueAndTheRemedy) {
  const auto refused = [](const CacheLayout& l, std::string_view words) {
    const auto why = l.check();
    ASSERT_TRUE(why) << words;
    EXPECT_NE(why->find(words), std::string::npos) << *why;
  };
  const auto shuffled = CacheOrder::kPreshuffled;
  refused(layout_of(shuffled, DType::kE4M3FN, 1, 128), "block_size=1 is not a multiple of 16");
  refused(layout_of(shuffled, DType::kE4M3FN, 24, 128), "block_size=24");
  refused(layout_of(shuffled, DType::kE4M3FN, 16, 120), "head_dim=120");
  refused(layout_of(shuffled, DType::kE4M3FN, 16, 120), "use row_major");
  refused(layout_of(shuffled, DType::kBF16, 16, 128, 0, 4), "split=4");
  refused(layout_of(shuffled, DType::kE4M3FN, 16, 576, 0, 576), "split=576 must lie below head_dim=576");
  refused(layout_of(shuffled, DType::kE4M3FN, 0, 128), "block_size=0");
  refused(layout_of(shuffled, DType::kE4M3FN, 16, 0), "head_dim=0");
  refused(layout_of(shuffled, DType::kE4M3FN, 16, 128, 48), "quant_block=48 does not divide");
  refused(layout_of(CacheOrder::kRowMajor, DType::kE4M3FN, 1, 130, 130), "not a multiple of 4");
  refused(layout_of(shuffled, DType::kI32, 16, 128), "i32");
  refused(layout_of(shuffled, DType::kF64, 16, 128), "f64");
  refused(layout_of(shuffled, DType::kE4M3FN, 16, 128, 128, 0, 2000), "block_stride=2000 is less");
  refused(layout_of(shuffled, DType::kE4M3FN, 16, 128, 128, 0, 2114), "misalign");
  EXPECT_FALSE(layout_of(shuffled, DType::kBF16, 16, 8).check());
  EXPECT_FALSE(layout_of(CacheOrder::kRowMajor, DType::kE4M3FN, 1, 1).check());
}

TEST(CacheLayout, TextIsOneWordAndBadTextIsRefused) {
  EXPECT_EQ(layout_of(CacheOrder::kPreshuffled, DType::kE4M3FN, 64, 128, 128).str(),
            "preshuffled:e4m3fn:64x128:q128");
  EXPECT_EQ(layout_of(CacheOrder::kPreshuffled, DType::kBF16, 64, 576, 0, 512).str(),
            "preshuffled:bf16:64x576:split512");
  for (const std::string_view text :
       {"", "preshuffled", "preshuffled:e4m3fn", "tiled:e4m3fn:64x128", "preshuffled:fp8:64x128",
        "preshuffled:e4m3fn:64", "preshuffled:e4m3fn:x128", "preshuffled:e4m3fn:64x128x2",
        "preshuffled:e4m3fn:64x128:z3", "preshuffled:e4m3fn:64x128:q", "preshuffled:e4m3fn:-64x128",
        "preshuffled:e4m3fn:64x128:q12a", "preshuffled:e4m3fn:99999999999999999999x128",
        "preshuffled:e4m3fn:1x128", "row_major:e4m3fn:64x128:stride100"}) {
    std::string why;
    EXPECT_FALSE(parse_cache_layout(text, &why)) << text;
    EXPECT_FALSE(why.empty()) << text;
  }
}

RC_GTEST_PROP(CacheLayoutProperties, WhatIsPrintedParsesBack, ()) {
  CacheLayout l;
  l.order = *rc::gen::element(CacheOrder::kRowMajor, CacheOrder::kPreshuffled);
  l.dtype = *rc::gen::element(DType::kE4M3FN, DType::kE4M3FNUZ, DType::kE5M2, DType::kBF16, DType::kF16,
                              DType::kF32);
  l.block_size = *rc::gen::element(1, 16, 32, 48, 64, 128, 256);
  l.head_dim = *rc::gen::inRange<std::int64_t>(1, 600);
  l.quant_block = *rc::gen::element<std::int64_t>(0, 0, 1, 16, 64, 128);
  l.split = *rc::gen::element<std::int64_t>(0, 0, 16, 512);
  if (*rc::gen::arbitrary<bool>())
    l.block_stride = l.head_dim * l.block_size * 8 + *rc::gen::inRange<std::int64_t>(0, 64);
  std::string why;
  const auto parsed = parse_cache_layout(l.str(), &why);
  const auto refused = l.check();
  RC_ASSERT(parsed.has_value() != refused.has_value());
  if (parsed) RC_ASSERT(*parsed == l);
  if (refused) RC_ASSERT(why == *refused);
}

RC_GTEST_PROP(CacheLayoutProperties, PlaceInvertsOffsetsOfAnySlot, ()) {
  CacheLayout l =
      layout_of(*rc::gen::element(CacheOrder::kRowMajor, CacheOrder::kPreshuffled),
                *rc::gen::element(DType::kE4M3FN, DType::kBF16, DType::kF32),
                *rc::gen::element(16, 32, 48, 64, 256), 16 * *rc::gen::inRange<std::int64_t>(1, 40));
  l.quant_block = *rc::gen::element<std::int64_t>(0, 16, l.head_dim);
  if (l.order == CacheOrder::kPreshuffled && l.head_dim > 16)
    l.split = *rc::gen::element<std::int64_t>(0, 16);
  RC_PRE(!l.check());
  const auto slot = *rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 34);
  const auto channel = *rc::gen::inRange<std::int64_t>(0, l.head_dim);
  const std::int64_t offset = l.value_at(slot, channel);
  const CacheLayout::Place place = l.place(offset % l.stride());
  RC_ASSERT(place == (CacheLayout::Place{CacheLayout::Place::Kind::kValue, slot % l.block_size, channel, 0}));
  RC_ASSERT(offset / l.stride() == slot / l.block_size);
}

}  // namespace
}  // namespace moecheck::reference
