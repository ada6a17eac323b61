// The CPU version of indexer_cache: the conversion over all inputs, offsets past 2^32, values that must be refused.
#include "optimized/cpu/indexer_cache.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace moecheck::optimized {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;
using reference::ConstView;
using reference::DivisionOp;
using reference::DType;
using reference::IndexerQuant;
using reference::Shape;
using reference::View;

struct Pool {
  CacheLayout layout;
  std::vector<std::uint8_t> bytes;
  explicit Pool(const CacheLayout& l, std::int64_t blocks)
      : layout(l), bytes(static_cast<std::size_t>(blocks * l.stride()), 0xA5) {}
  std::int64_t blocks() const { return static_cast<std::int64_t>(bytes.size()) / layout.stride(); }
  View view() { return {bytes.data(), DType::kU8, Shape(blocks(), layout.stride())}; }
};

CacheLayout layout_of(CacheOrder order, std::int64_t block_size = 16, std::int64_t head_dim = 128,
                      std::int64_t quant_block = 128) {
  CacheLayout l;
  l.order = order;
  l.block_size = block_size, l.head_dim = head_dim, l.quant_block = quant_block;
  return l;
}

struct Variant {
  const char* name;
  IndexerQuant quant;
};

std::vector<Variant> variants() {
  using enum DivisionOp;
  const auto make = [](DType fp8, double f, DivisionOp scale, DivisionOp value, bool ue8m0) {
    IndexerQuant q;
    q.fp8 = fp8, q.divisor = f, q.scale_op = scale, q.value_op = value, q.ue8m0 = ue8m0;
    q.non_finite = reference::NonFiniteKeys::kCode;
    return q;
  };
  return {{"fn divide", make(DType::kE4M3FN, 448, kDivide, kDivide, false)},
          {"fn reciprocal", make(DType::kE4M3FN, 448, kReciprocal, kReciprocal, false)},
          {"fn ue8m0", make(DType::kE4M3FN, 448, kDivide, kDivide, true)},
          {"fnuz 240 reciprocal", make(DType::kE4M3FNUZ, 240, kDivide, kReciprocal, false)},
          {"fnuz 224 divide", make(DType::kE4M3FNUZ, 224, kDivide, kDivide, false)},
          {"fnuz 224 ue8m0", make(DType::kE4M3FNUZ, 224, kDivide, kDivide, true)}};
}

// Every number of bf16 and f16 that is no larger than amax, in groups of 15 or 127 and the amax: each meets each
// scale. The wide groups take the ways that need whole vectors.
class IndexerCacheEveryInput : public testing::TestWithParam<std::int64_t> {};

TEST_P(IndexerCacheEveryInput, MeetsManyScalesAndGivesTheReferencesCode) {
  constexpr std::int64_t kRow = 128;
  const std::int64_t group = GetParam();
  const CacheLayout l = layout_of(CacheOrder::kRowMajor, 1, kRow, group);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const double amax : {448.0, 450.0, 1.0, 0x1p-13, 1.8125, 60000.0, 0.013671875}) {
      const double a = reference::round_to(dtype, amax);
      const auto top = static_cast<std::uint16_t>(reference::encode(dtype, a));
      std::vector<std::uint16_t> k;
      for (std::uint32_t b = 0; b < 0x10000; ++b) {
        if ((b & 0x7FFF) > top) continue;
        if (static_cast<std::int64_t>(k.size()) % group == 0) k.push_back(top);
        k.push_back(static_cast<std::uint16_t>(b));
      }
      k.resize((k.size() + kRow - 1) / kRow * kRow, top);
      const auto tokens = static_cast<std::int64_t>(k.size()) / kRow;
      std::vector<std::int64_t> slots(static_cast<std::size_t>(tokens));
      std::iota(slots.begin(), slots.end(), 0);
      const ConstView keys{k.data(), dtype, Shape(tokens, kRow)},
          mapping{slots.data(), DType::kI64, Shape(tokens)};
      for (const Variant& v : variants()) {
        Pool want(l, tokens), got(l, tokens);
        reference::indexer_k_quant_and_cache(v.quant, l, keys, kRow, mapping, tokens, want.bytes.data());
        for (const bool baseline : {false, true}) {
          use_baseline_target(baseline);
          indexer_k_quant_and_cache(v.quant, l, keys, kRow, mapping, tokens, got.view(), {2});
          use_baseline_target(false);
          ASSERT_EQ(want.bytes, got.bytes)
              << v.name << " " << reference::name(dtype) << " amax " << amax << " baseline " << baseline;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Groups, IndexerCacheEveryInput, testing::Values(16, 128));

// fp32 keys around every midpoint of every code, and non-finite ones.
TEST(IndexerCacheCpu, Fp32KeysAroundEveryMidpoint) {
  constexpr std::int64_t kRow = 128;
  const CacheLayout l = layout_of(CacheOrder::kPreshuffled, 16, kRow, kRow);
  for (const Variant& v : variants()) {
    std::vector<float> k;
    for (const float amax : {448.0F, 3.1415927F, 1e-3F, 1e30F}) {
      const float scale = reference::group_scale(v.quant, &amax, 1).scale[0];
      for (std::uint64_t code = 0; code + 1 < 0x7F; ++code) {
        const double middle =
            (reference::decode(v.quant.fp8, code) + reference::decode(v.quant.fp8, code + 1)) / 2 * scale;
        const auto at = std::bit_cast<std::uint32_t>(static_cast<float>(middle));
        for (int ulps = -3; ulps <= 3; ++ulps) {
          const float x = std::bit_cast<float>(at + static_cast<std::uint32_t>(ulps));
          if (at < 3 || x > amax) continue;
          if (k.size() % kRow == 0) k.push_back(amax);
          k.push_back(ulps % 2 == 0 ? x : -x);
        }
      }
      k.resize((k.size() + kRow - 1) / kRow * kRow, 0);
    }
    const float nan = std::nanf(""), inf = INFINITY;
    for (const float odd : {nan, -nan, inf, -inf, 0.0F}) {
      k.push_back(odd);
      k.resize((k.size() + kRow - 1) / kRow * kRow, odd == 0 ? -0.0F : 1.5F);
    }
    const auto tokens = static_cast<std::int64_t>(k.size()) / kRow;
    std::vector<std::int32_t> slots(static_cast<std::size_t>(tokens));
    std::iota(slots.rbegin(), slots.rend(), 0);
    const ConstView keys{k.data(), DType::kF32, Shape(tokens, kRow)},
        mapping{slots.data(), DType::kI32, Shape(tokens)};
    Pool want(l, tokens / 16 + 1), got(l, tokens / 16 + 1);
    reference::indexer_k_quant_and_cache(v.quant, l, keys, kRow, mapping, tokens, want.bytes.data());
    indexer_k_quant_and_cache(v.quant, l, keys, kRow, mapping, tokens, got.view(), {3});
    EXPECT_EQ(want.bytes, got.bytes) << v.name;
  }
}

// Of tokens with one slot the last wins, for any number of threads: nothing depends on which thread is faster.
TEST(IndexerCacheCpu, DuplicateSlotsDoNotDependOnThreads) {
  constexpr std::int64_t kTokens = 400;
  const CacheLayout l = layout_of(CacheOrder::kPreshuffled);
  std::vector<float> k(kTokens * 128);
  for (std::size_t i = 0; i < k.size(); ++i)
    k[i] = static_cast<float>(static_cast<int>(i * 7919 % 2003) - 1000);
  std::vector<std::int64_t> slots(kTokens);
  for (std::size_t t = 0; t < slots.size(); ++t) slots[t] = static_cast<std::int64_t>(t * 37 % 96);
  const ConstView keys{k.data(), DType::kF32, Shape(kTokens, 128)},
      mapping{slots.data(), DType::kI64, Shape(kTokens)};
  Pool want(l, 6);
  reference::indexer_k_quant_and_cache({}, l, keys, 128, mapping, kTokens, want.bytes.data());
  for (const int threads : {1, 2, 3, 7}) {
    Pool got(l, 6);
    indexer_k_quant_and_cache({}, l, keys, 128, mapping, kTokens, got.view(), {threads});
    EXPECT_EQ(got.bytes, want.bytes) << threads;
  }
}

// Long prompts are stored past the caches where lines are whole; blocks that begin anywhere, and tokens alone, are not.
TEST(IndexerCacheCpu, LongPromptsGiveTheReferencesBytes) {
  constexpr std::int64_t kTokens = 16500;
  std::vector<std::uint16_t> k(kTokens * 128);
  for (std::size_t i = 0; i < k.size(); ++i)
    k[i] = static_cast<std::uint16_t>(0x3E00 + i * 40503 % 0x0180 + (i * 7 % 2 << 15));
  for (const CacheOrder order : {CacheOrder::kRowMajor, CacheOrder::kPreshuffled})
    for (const std::int64_t pad : {0, 4}) {
      CacheLayout l = layout_of(order, 64);
      if (pad > 0) l.block_stride = l.block_bytes() + pad;
      std::vector<std::int64_t> slots(kTokens);
      for (std::size_t t = 0; t < slots.size(); ++t) {
        const auto i = static_cast<std::int64_t>(t), block = i / 64;
        slots[t] = i % 1000 == 7 ? -1 : (block ^ 5) * 64 + (block % 16 == 3 ? i % 64 * 5 % 64 : i % 64);
      }
      const ConstView keys{k.data(), DType::kBF16, Shape(kTokens, 128)},
          mapping{slots.data(), DType::kI64, Shape(kTokens)};
      IndexerQuant quant;
      quant.ue8m0 = true;
      Pool want(l, kTokens / 64 + 8), got(l, kTokens / 64 + 8);
      reference::indexer_k_quant_and_cache(quant, l, keys, 128, mapping, kTokens, want.bytes.data());
      indexer_k_quant_and_cache(quant, l, keys, 128, mapping, kTokens, got.view(), {3});
      EXPECT_TRUE(want.bytes == got.bytes) << reference::name(order) << " pad " << pad;
    }
}

// ---- Offsets past 2^32: blocks a GiB apart, of which a few pages are touched

class SparsePool {
 public:
  static constexpr std::int64_t kStride = std::int64_t{1} << 30, kBlocks = 7;
  SparsePool() {
    void* p = mmap(nullptr, kStride * kBlocks, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    data_ = p == MAP_FAILED ? nullptr : static_cast<std::uint8_t*>(p);
  }
  ~SparsePool() {
    if (data_ != nullptr) munmap(data_, kStride * kBlocks);
  }
  SparsePool(const SparsePool&) = delete;
  SparsePool& operator=(const SparsePool&) = delete;
  std::uint8_t* data() { return data_; }
  View view() { return {data_, DType::kU8, Shape(kBlocks, kStride)}; }

 private:
  std::uint8_t* data_ = nullptr;
};

class IndexerCacheSparse : public testing::TestWithParam<CacheOrder> {};

TEST_P(IndexerCacheSparse, BlocksPast4GiBAreWrittenAndGathered) {
  CacheLayout l = layout_of(GetParam(), 64);
  l.block_stride = SparsePool::kStride;
  ASSERT_FALSE(l.check());
  SparsePool want, got;
  if (want.data() == nullptr || got.data() == nullptr) GTEST_SKIP() << "no address space of 7 GiB";
  const std::vector<std::int64_t> slots = {6 * 64 + 63, 5 * 64, 4 * 64 + 17, 2 * 64 + 33, 3 * 64 + 1, 0};
  constexpr std::int64_t kTokens = 6;
  std::vector<float> k(kTokens * 128);
  for (std::size_t i = 0; i < k.size(); ++i)
    k[i] = static_cast<float>(static_cast<int>(i * 31 % 211) - 100) + 0.25F;
  const ConstView keys{k.data(), DType::kF32, Shape(kTokens, 128)},
      mapping{slots.data(), DType::kI64, Shape(kTokens)};
  reference::indexer_k_quant_and_cache({}, l, keys, 128, mapping, kTokens, want.data());
  indexer_k_quant_and_cache({}, l, keys, 128, mapping, kTokens, got.view(), {2});
  for (const std::int64_t s : slots) {
    std::vector<std::uint8_t> a(128), b(128);
    float sa = 0, sb = 1;
    reference::get_row(l, want.data(), s, a.data(), &sa);
    reference::get_row(l, got.data(), s, b.data(), &sb);
    EXPECT_EQ(a, b) << s;
    EXPECT_EQ(sa, sb) << s;
    EXPECT_GT(sa, 0) << s;
    // Where 32 bits would have put it.
    const std::int64_t wrapped = l.scale_at(s, 0) & 0xFFFFFFFF;
    float other = 0;
    std::memcpy(&other, got.data() + wrapped, 4);
    if (wrapped != l.scale_at(s, 0)) {
      EXPECT_EQ(other, 0) << s;
    }
  }
  const std::vector<std::int32_t> table = {6, 5, 4, 2, 3, 0}, cu = {0, 64, 65, 83, 117, 119, 120};
  const reference::PagedTable paged{
      {table.data(), DType::kI32, Shape(6, 1)}, 1, {cu.data(), DType::kI32, Shape(7)}};
  std::vector<std::uint8_t> dst_k(120 * 128), want_k(120 * 128), want_scale(120 * 4);
  std::vector<float> dst_scale(120);
  reference::cp_gather_indexer_k_quant_cache(l, want.data(), paged, 120, want_k.data(), want_scale.data());
  cp_gather_indexer_k_quant_cache(l, got.view(), paged, 1, {dst_k.data(), DType::kE4M3FN, Shape(120, 128)},
                                  {dst_scale.data(), DType::kF32, Shape(120, 1)}, {2});
  EXPECT_EQ(dst_k, want_k);
  EXPECT_EQ(std::memcmp(dst_scale.data(), want_scale.data(), want_scale.size()), 0);
  EXPECT_GT(dst_scale[63], 0) << "position 63 of the request in block 6";
}

INSTANTIATE_TEST_SUITE_P(Orders, IndexerCacheSparse,
                         testing::Values(CacheOrder::kRowMajor, CacheOrder::kPreshuffled),
                         [](const auto& order) { return std::string(reference::name(order.param)); });

// ---- Values that no contract allows are refused before anything is touched

template <class Call>
std::string refusal_of(Call call) {
  try {
    call();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return {};
}

TEST(IndexerCacheCpu, RefusesSlotsPastTheCache) {
  const CacheLayout l = layout_of(CacheOrder::kRowMajor);
  const std::vector<float> k(3 * 128, 1);
  Pool pool(l, 2);
  const std::vector<std::uint8_t> before = pool.bytes;
  for (const std::int64_t bad :
       {std::int64_t{32}, std::int64_t{1} << 40, std::numeric_limits<std::int64_t>::max()}) {
    const std::vector<std::int64_t> slots = {0, 5, bad};
    const std::string why = refusal_of([&] {
      indexer_k_quant_and_cache({}, l, {k.data(), DType::kF32, Shape(3, 128)}, 128,
                                {slots.data(), DType::kI64, Shape(3)}, 3, pool.view(), {2});
    });
    EXPECT_NE(why.find("slot_mapping[2] = " + std::to_string(bad)), std::string::npos) << why;
    EXPECT_EQ(pool.bytes, before);
  }
  const std::vector<std::int64_t> slots = {std::numeric_limits<std::int64_t>::min(), -1, 31};
  indexer_k_quant_and_cache({}, l, {k.data(), DType::kF32, Shape(3, 128)}, 128,
                            {slots.data(), DType::kI64, Shape(3)}, 3, pool.view(), {2});
  EXPECT_NE(pool.bytes, before);
  const std::string shorter = refusal_of([&] {
    indexer_k_quant_and_cache({}, l, {k.data(), DType::kF32, Shape(3, 128)}, 128,
                              {slots.data(), DType::kI64, Shape(2)}, 3, pool.view(), {1});
  });
  EXPECT_NE(shorter.find("shorter"), std::string::npos);
}

TEST(IndexerCacheCpu, RefusesTablesAndLengthsThatLeaveTheCache) {
  const CacheLayout l = layout_of(CacheOrder::kPreshuffled);
  Pool pool(l, 3);
  std::vector<std::uint8_t> dst_k(40 * 128);
  std::vector<float> dst_scale(40);
  const auto gather = [&](std::vector<std::int32_t> table, std::vector<std::int32_t> cu) {
    const auto requests = static_cast<std::int64_t>(cu.size()) - 1;
    const reference::PagedTable paged{
        {table.data(), DType::kI32, Shape(requests, 2)}, 2, {cu.data(), DType::kI32, Shape(requests + 1)}};
    return refusal_of([&] {
      cp_gather_indexer_k_quant_cache(l, pool.view(), paged, 2,
                                      {dst_k.data(), DType::kE4M3FN, Shape(40, 128)},
                                      {dst_scale.data(), DType::kF32, Shape(40, 1)}, {2});
    });
  };
  EXPECT_EQ(gather({0, 2, 1, -1}, {0, 20, 36}), "");
  EXPECT_NE(gather({0, 3, 1, -1}, {0, 20, 36}).find("block_table[0, 1] = 3"), std::string::npos);
  EXPECT_NE(gather({0, 2, -1, -1}, {0, 20, 36}).find("block_table[1, 0] = -1"), std::string::npos);
  EXPECT_NE(gather({0, 2, 1, -1}, {0, 33, 36}).find("too short"), std::string::npos);
  EXPECT_NE(gather({0, 2, 1, -1}, {0, 20, 10}).find("descends"), std::string::npos);
  EXPECT_NE(gather({0, 2, 1, 1}, {0, 20, 41}).find("past the 40 rows"), std::string::npos);
  EXPECT_NE(gather({0, 2, 1, 1}, {-5, 20, 30}).find("cu_seq_lens[0]"), std::string::npos);
}

}  // namespace
}  // namespace moecheck::optimized
