// The reference of indexer_cache: golden vectors of the notes, and the facts that contracts and judges rest on.
#include "reference/indexer_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace moecheck::reference {
namespace {

using Codes = std::vector<std::uint8_t>;

std::uint32_t bits_of(float v) { return std::bit_cast<std::uint32_t>(v); }
float bf16(double v) { return static_cast<float>(round_to(DType::kBF16, v)); }
float bf16_bits(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }

struct Quantized {
  std::uint32_t scale;
  Codes codes;
  friend bool operator==(const Quantized&, const Quantized&) = default;
};
void PrintTo(const Quantized& q, std::ostream* out) {
  *out << std::hex << q.scale << ":";
  for (const int c : q.codes) *out << " " << c;
}

Quantized quantized(const IndexerQuant& q, const std::vector<float>& k) {
  float scale = 0;
  Codes codes(k.size());
  quantize_row(q, static_cast<std::int64_t>(k.size()), k.data(), static_cast<std::int64_t>(k.size()),
               codes.data(), &scale);
  return {bits_of(scale), codes};
}

struct Golden {
  std::vector<float> k;
  Quantized plain, ue8m0;
};

// The whole group each time; e4m3fn, F = 448.
const std::vector<Golden>& golden() {
  static const std::vector<Golden> all = {
      {{0.0F, -0.0F}, {0x346FACAD, {0x00, 0x80}}, {0x34800000, {0x00, 0x80}}},
      {{448, -448, 17, 19, -17, 1, 0x1p-9F, 0x1p-10F, 1.5F * 0x1p-9F},
       {0x3F800000, {0x7E, 0xFE, 0x58, 0x5A, 0xD8, 0x38, 0x01, 0x00, 0x02}},
       {0x3F800000, {0x7E, 0xFE, 0x58, 0x5A, 0xD8, 0x38, 0x01, 0x00, 0x02}}},
      {{450, 17, 19, 1}, {0x3F809249, {0x7E, 0x58, 0x59, 0x38}}, {0x40000000, {0x76, 0x50, 0x52, 0x30}}},
      {{1, -0.5F, 0x1p-7F, bf16(1e-3)},
       {0x3B124925, {0x7E, 0xF6, 0x46, 0x2E}},
       {0x3B800000, {0x78, 0xF0, 0x40, 0x28}}},
      {{bf16(1e-5), -bf16(1e-5)}, {0x346FACAD, {0x63, 0xE3}}, {0x34800000, {0x62, 0xE2}}},
      {{0.875F, -0.4375F, bf16(0.1)}, {0x3B000000, {0x7E, 0xF6, 0x65}}, {0x3B000000, {0x7E, 0xF6, 0x65}}}};
  return all;
}

TEST(IndexerCacheReference, GoldenVectors) {
  for (const Golden& g : golden()) {
    IndexerQuant q;
    EXPECT_EQ(quantized(q, g.k), g.plain);
    q.ue8m0 = true;
    EXPECT_EQ(quantized(q, g.k), g.ue8m0);
    q.value_op = DivisionOp::kReciprocal;
    EXPECT_EQ(quantized(q, g.k), g.ue8m0) << "powers of two divide exactly either way";
  }
}

// Element 1 of this group is 0x74 by division and 0x75 by multiplication.
TEST(IndexerCacheReference, DivisionAndReciprocalDiffer) {
  std::vector<float> k;
  for (const std::uint32_t b : {0x3EABU, 0x3F2FU, 0xBE04U, 0x3FC4U, 0xBE85U, 0x3ED2U, 0x3E4CU, 0x3F88U})
    k.push_back(bf16_bits(b));
  IndexerQuant q;
  const Quantized divided = quantized(q, k);
  q.value_op = DivisionOp::kReciprocal;
  const Quantized multiplied = quantized(q, k);
  EXPECT_EQ(divided.scale, 0x3B600000U);
  EXPECT_EQ(multiplied.scale, 0x3B600000U);
  EXPECT_EQ(divided.codes[1], 0x74);
  EXPECT_EQ(multiplied.codes[1], 0x75);
  IndexerQuant any;
  any.value_op = DivisionOp::kAny;
  const float scale = std::bit_cast<float>(0x3B600000U);
  EXPECT_TRUE(may_be_code(any, k[1], scale, 0x74));
  EXPECT_TRUE(may_be_code(any, k[1], scale, 0x75));
  EXPECT_FALSE(may_be_code(any, k[1], scale, 0x73));
  EXPECT_FALSE(may_be_code(any, k[1], scale, 0x76));
  EXPECT_FALSE(may_be_code(q, k[1], scale, 0x74)) << "a stated division leaves nothing open";
  EXPECT_FALSE(may_be_code(any, k[0], scale, static_cast<std::uint8_t>(divided.codes[0] + 1)))
      << "far from a midpoint";
}

TEST(IndexerCacheReference, ZeroRowsHaveTheFloorsScale) {
  const std::vector<float> zeros(128, 0.0F);
  IndexerQuant q;
  EXPECT_EQ(quantized(q, zeros).scale, 0x346FACADU);
  q.ue8m0 = true;
  EXPECT_EQ(quantized(q, zeros).scale, 0x34800000U);
  q.fp8 = DType::kE4M3FNUZ, q.divisor = 240;
  const Quantized fnuz = quantized(q, {0.0F, -0.0F});
  EXPECT_EQ(fnuz.codes, (Codes{0x00, 0x00})) << "0x80 is NaN in e4m3fnuz";
}

// gfx942: vLLM divides by 224 and aiter by 240. With ue8m0 the exponents differ exactly where the mantissa of amax is in
// (1.75, 1.875].
TEST(IndexerCacheReference, DivisorsDisagreeOnOneEighthOfTheMantissas) {
  IndexerQuant vllm, aiter;
  vllm.fp8 = aiter.fp8 = DType::kE4M3FNUZ;
  vllm.ue8m0 = aiter.ue8m0 = true;
  vllm.divisor = 224, aiter.divisor = 240;
  int differ = 0;
  for (std::uint32_t b = 0x3F00; b < 0x4100; ++b) {
    const float a = bf16_bits(b), mantissa = a / static_cast<float>(std::ldexp(1.0, std::ilogb(a)));
    const bool expected = mantissa > 1.75F && mantissa <= 1.875F;
    EXPECT_EQ(group_scale(vllm, &a, 1).scale[0] != group_scale(aiter, &a, 1).scale[0], expected) << a;
    differ += expected;
  }
  EXPECT_EQ(differ, 4 * 16);
}

// fp32's log2f gives the exact exponent for every amax that bf16 and f16 hold, however the scale is formed: contracts need no
// policy for it there.
TEST(IndexerCacheReference, Log2IsExactForAllBf16AndF16Amax) {
  for (const DType dtype : {DType::kBF16, DType::kF16})
    for (std::uint64_t b = 1; b < 0x7F80; ++b) {
      if (dtype == DType::kF16 && b >= 0x7C00) break;
      const auto a = static_cast<float>(decode(dtype, b));
      for (const double f : {448.0, 240.0, 224.0}) {
        IndexerQuant bits, log2;
        bits.ue8m0 = log2.ue8m0 = true;
        bits.divisor = log2.divisor = f;
        log2.exponent = ExponentOp::kLog2;
        log2.scale_op = DivisionOp::kAny;
        const GroupScale exact = group_scale(bits, &a, 1), any = group_scale(log2, &a, 1);
        ASSERT_EQ(any.count, 1) << a << " / " << f;
        ASSERT_EQ(bits_of(exact.scale[0]), bits_of(any.scale[0])) << a << " / " << f;
        const float s = std::max(a, 1e-4F) / static_cast<float>(f);
        ASSERT_EQ(exact.scale[0], std::exp2(std::ceil(std::log2(s)))) << a << " / " << f;
      }
    }
}

// With fp32 keys it does not: just above 448 * 2^k log2f rounds down to the integer, and both exponents are honest.
TEST(IndexerCacheReference, Log2LeavesFp32AmaxOpenJustAboveAPowerOfTwo) {
  IndexerQuant q;
  q.ue8m0 = true;
  q.exponent = ExponentOp::kLog2;
  int open = 0;
  for (int k = -20; k <= 20; ++k)
    for (int ulps = -8; ulps <= 64; ++ulps) {
      const float at = static_cast<float>(std::ldexp(448.0, k));
      const float a = std::bit_cast<float>(bits_of(at) + static_cast<std::uint32_t>(ulps));
      if (a < 1e-4F) continue;
      const GroupScale g = group_scale(q, &a, 1);
      const float s = a / 448.0F, by_log2 = std::exp2(std::ceil(std::log2(s)));
      EXPECT_TRUE(g.holds(by_log2)) << a << ": this machine's log2f is refused";
      EXPECT_GE(g.scale[0], s) << "the reference is exact";
      open += g.count > 1;
      if (ulps <= 0) {
        EXPECT_EQ(g.count, 1) << a;
      }
    }
  EXPECT_GT(open, 0);
  const float far = 449;
  EXPECT_EQ(group_scale(q, &far, 1).count, 1);
}

// k / scale rounds to no more than the largest code, so no contract needs to say whether finite numbers are clamped first.
TEST(IndexerCacheReference, FiniteQuotientsNeverReachTheOverflowThreshold) {
  std::mt19937_64 rng(3);
  for (const auto& [fp8, f] :
       {std::pair{DType::kE4M3FN, 448.0}, {DType::kE4M3FNUZ, 240.0}, {DType::kE4M3FNUZ, 224.0}})
    for (int i = 0; i < 100000; ++i) {
      const float a =
          std::bit_cast<float>(static_cast<std::uint32_t>(0x38D1B718 + rng() % (0x7F7FFFFF - 0x38D1B718)));
      for (const float s : {a / static_cast<float>(f), a * (1.0F / static_cast<float>(f))})
        for (const float q : {a / s, a * (1.0F / s)}) ASSERT_LT(q, max_finite(fp8) * 1.0001) << a;
    }
}

TEST(IndexerCacheReference, NonFiniteRows) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  IndexerQuant q;
  q.non_finite = NonFiniteKeys::kCode;
  EXPECT_EQ(quantized(q, {448, nan, -448}), (Quantized{0x3F800000, {0x7E, 0x7F, 0xFE}}))
      << "NaN does not poison the scale";
  EXPECT_EQ(quantized(q, {inf, 1, -1}), (Quantized{0x7F800000, {0x7F, 0x00, 0x80}}));
  EXPECT_TRUE(may_be_code(q, nan, 1, 0xFF));
  EXPECT_FALSE(may_be_code(q, nan, 1, 0xFE));
  q.non_finite = NonFiniteKeys::kClamped;
  EXPECT_EQ(quantized(q, {448, nan, -448}).codes[1], 0xFE);
  EXPECT_FALSE(may_be_code(q, nan, 1, 0x7F));
}

// 64 tokens of 128 channels: 8448 bytes a block, scales from 8192 on.
TEST(IndexerCacheReference, BytesLieWhereTheNotesSay) {
  CacheLayout l;
  l.quant_block = 128;
  for (const bool shuffled : {false, true}) {
    l.order = shuffled ? CacheOrder::kPreshuffled : CacheOrder::kRowMajor;
    std::vector<std::uint8_t> cache(2 * 8448, 0xAA);
    Codes codes(128);
    for (std::size_t c = 0; c < 128; ++c) codes[c] = static_cast<std::uint8_t>(c);
    const float scale = 3;
    put_row(l, cache.data(), 64 + 37, codes.data(), &scale);
    const std::size_t at = 8448 + (shuffled ? 5213U : 37U * 128 + 77);  // (37, 77)
    EXPECT_EQ(cache[at], 77);
    float stored = 0;
    std::memcpy(&stored, cache.data() + 8448 + 8192 + 37 * 4, 4);
    EXPECT_EQ(stored, 3);
    EXPECT_EQ(std::count(cache.begin(), cache.end(), 0xAA), 2 * 8448 - 132);
    Codes back(128);
    float again = 0;
    get_row(l, cache.data(), 101, back.data(), &again);
    EXPECT_EQ(back, codes);
    EXPECT_EQ(again, 3);
  }
}

struct SmallTable {
  std::vector<std::int32_t> table, cu;
  std::int64_t stride;
  PagedTable view() const {
    const auto requests = static_cast<std::int64_t>(cu.size()) - 1;
    return {{table.data(), DType::kI32, Shape(requests, stride)},
            stride,
            {cu.data(), DType::kI32, Shape(requests + 1)}};
  }
};

TEST(IndexerCacheReference, GatherPassesOverEmptyRequestsAndLeavesRowsPastTheEnd) {
  // Requests of 3, 0 and 2 tokens, 2 tokens a block; the third column belongs to nobody.
  const SmallTable t{{5, 1, -7, -7, -7, -7, 4, -7, -7}, {0, 3, 3, 5}, 3};
  std::vector<std::int64_t> slots;
  for (int row = 0; row < 6; ++row) slots.push_back(gathered_slot(t.view(), 2, row));
  EXPECT_EQ(slots, (std::vector<std::int64_t>{10, 11, 2, 8, 9, -1}));
  CacheLayout l;
  l.block_size = 2, l.head_dim = 4, l.quant_block = 2;
  std::vector<std::uint8_t> cache(static_cast<std::size_t>(6 * l.stride()));
  for (std::size_t i = 0; i < cache.size(); ++i) cache[i] = static_cast<std::uint8_t>(i);
  std::vector<std::uint8_t> k(24, 0xEE), scale(48, 0xEE);
  cp_gather_indexer_k_quant_cache(l, cache.data(), t.view(), 6, k.data(), scale.data());
  EXPECT_EQ(k[2 * 4], 1 * 24) << "row 2 is token 0 of block 1";
  EXPECT_EQ(k[4 * 4 + 3], 4 * 24 + 7) << "row 4 is token 1 of block 4";
  EXPECT_EQ(scale[1 * 8], 5 * 24 + 8 + 8) << "two scales a token, behind the values of both tokens";
  for (std::size_t i = 20; i < 24; ++i) EXPECT_EQ(k[i], 0xEE);
  for (std::size_t i = 40; i < 48; ++i) EXPECT_EQ(scale[i], 0xEE);
}

}  // namespace
}  // namespace moecheck::reference
