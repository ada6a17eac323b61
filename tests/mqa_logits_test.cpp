// mqa_logits: the reference by hand, its limits and bounds, top-k sets, bad input, and the CPU version's bits.
#include "reference/mqa_logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>

#include "optimized/cpu/mqa_logits.h"
#include "reference/indexer_cache.h"

namespace moecheck::reference {
namespace {

std::uint8_t code(double v, DType fp8 = DType::kE4M3FN) { return static_cast<std::uint8_t>(encode(fp8, v)); }

// A problem that owns its memory. Tokens are numbers until build(), which quantizes nothing: they are fp8 numbers.
struct Problem {
  MqaLogitsOptions o;
  std::vector<std::uint8_t> q, k, cache;
  std::vector<float> weights, scales;
  std::vector<std::int32_t> table, lengths, ks, ke;
  std::int64_t blocks = 0;

  MqaLogitsInputs in() const {
    const std::int64_t d = o.layout.head_dim,
                       columns = o.requests == 0 ? 0 : static_cast<std::int64_t>(table.size()) / o.requests;
    MqaLogitsInputs v;
    v.q = {q.data(), o.layout.dtype, Shape(o.rows(), o.heads, d)};
    v.weights = {weights.data(), DType::kF32, Shape(o.rows(), o.heads)};
    v.kv_cache = {cache.data(), DType::kU8, Shape(blocks, o.layout.stride())};
    v.block_table = {table.data(), DType::kI32, Shape(o.requests, columns)};
    v.context_lens = {lengths.data(), DType::kI32,
                      o.lengths_2d ? Shape(o.requests, o.next_n) : Shape(o.requests)};
    v.k = {k.data(), o.layout.dtype, Shape(static_cast<std::int64_t>(scales.size()), d)};
    v.k_scale = {scales.data(), DType::kF32, Shape(static_cast<std::int64_t>(scales.size()))};
    v.cu_seqlen_ks = {ks.data(), DType::kI32, Shape(o.rows())};
    v.cu_seqlen_ke = {ke.data(), DType::kI32, Shape(o.rows())};
    return v;
  }
  MqaLogits reference() const { return mqa_logits(o, in()); }
  void put(std::int64_t slot, const std::vector<double>& token, float scale) {
    std::vector<std::uint8_t> codes;
    for (const double v : token) codes.push_back(code(v, o.layout.dtype));
    put_row(o.layout, cache.data(), slot, codes.data(), &scale);
  }
};

// Two heads of four channels, blocks of one token; q . k by hand.
Problem by_hand() {
  Problem p;
  p.o.layout = {.block_size = 1, .head_dim = 4, .quant_block = 4};
  p.o.heads = 2, p.o.requests = 1, p.o.width = p.o.row_stride = 5;
  p.blocks = 4;
  p.cache.assign(static_cast<std::size_t>(p.blocks * p.o.layout.stride()), 0xFF);
  for (const double v : {1.0, 2.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.5}) p.q.push_back(code(v));
  p.weights = {2, -10};
  p.table = {3, 1, 0, -1, -1};
  p.lengths = {3};
  p.put(3, {1, 1, 7, 0}, 0.5F);    // dots 3, 0
  p.put(1, {2, -1, 7, -2}, 2.0F);  // dots 0, -4
  p.put(0, {-1, 3, 0, 2}, 4.0F);   // dots 5, 5
  return p;
}

TEST(MqaLogitsReference, IsTheFormulaByHand) {
  const MqaLogits got = by_hand().reference();
  ASSERT_EQ(got.logit.size(), 1U);
  ASSERT_EQ(got.logit[0].size(), 3U);
  const double want[] = {0.5 * (3 * 2), 0, 4 * (5 * 2 - 5 * 10)};
  for (std::size_t n = 0; n < 3; ++n) {
    EXPECT_EQ(got.logit[0][n].value, want[n]) << n;
    EXPECT_TRUE(got.logit[0][n].is_exact()) << n;
  }
}

TEST(MqaLogitsReference, PreshuffledTokensAreReadWhereTheSpecPutsThem) {
  Problem p;
  p.o.layout = {.order = CacheOrder::kPreshuffled, .block_size = 64, .head_dim = 128, .quant_block = 128};
  p.o.heads = 1, p.o.requests = 1, p.o.width = p.o.row_stride = 64;
  p.blocks = 1;
  p.cache.assign(static_cast<std::size_t>(p.o.layout.stride()), 0);
  p.table = {0}, p.lengths = {64}, p.weights = {1};
  p.q.assign(128, 0);
  // Worked examples of cache-and-streams.md 1.7: (37, 77) = 5213, (63, 127) = 8191; the scale of token t at 8192 + 4 t.
  p.q[77] = code(2), p.q[127] = code(3);
  p.cache[5213] = code(4), p.cache[8191] = code(5);
  const float scale = 0.25F;
  for (const std::size_t t : {37, 63}) std::memcpy(p.cache.data() + 8192 + 4 * t, &scale, 4);
  const MqaLogits got = p.reference();
  for (std::size_t n = 0; n < 64; ++n)
    EXPECT_EQ(got.logit[0][n].value, n == 37 ? 2 : n == 63 ? 3.75 : 0) << n;
}

TEST(MqaLogitsReference, CausalLimitsOfOneLengthPerRequest) {
  Problem p = by_hand();
  p.o.next_n = 3;
  const auto sizes = [&](std::int32_t length) {
    p.lengths = {length};
    std::vector<std::int64_t> v;
    for (std::int64_t j = 0; j < 3; ++j) v.push_back(tokens_seen(p.o, p.in(), j).size());
    return v;
  };
  // n <= ctx - next_n + j
  EXPECT_EQ(sizes(5), (std::vector<std::int64_t>{3, 4, 5}));
  EXPECT_EQ(sizes(1), (std::vector<std::int64_t>{0, 0, 1}));
  EXPECT_EQ(sizes(0), (std::vector<std::int64_t>{0, 0, 0}));
  p.o.lengths_2d = true;
  p.lengths = {4, 0, 2};
  EXPECT_EQ(tokens_seen(p.o, p.in(), 0).last, 4);
  EXPECT_EQ(tokens_seen(p.o, p.in(), 1).last, 0);
  EXPECT_EQ(tokens_seen(p.o, p.in(), 2).last, 2);
}

Problem ragged_by_hand() {
  Problem p = by_hand();
  p.o.form = LogitsForm::kRagged;
  p.o.requests = 2;
  p.q.insert(p.q.end(), p.q.begin(), p.q.end());
  p.weights = {2, -10, 1, 1};
  for (const double v : {1, 1, 7, 0, 2, -1, 7, -2, -1, 3, 0, 2}) p.k.push_back(code(v));
  p.scales = {0.5F, 2.0F, 4.0F};
  p.ks = {0, 1}, p.ke = {2, 3};
  return p;
}

TEST(MqaLogitsReference, RaggedRowsSeeTheirOwnTokens) {
  Problem p = ragged_by_hand();
  for (const bool compressed : {false, true}) {
    p.o.compressed = compressed;
    const MqaLogits got = p.reference();
    ASSERT_EQ(got.logit[0].size(), 2U);
    ASSERT_EQ(got.logit[1].size(), 2U);
    EXPECT_EQ(got.logit[0][0].value, 3);
    EXPECT_EQ(got.logit[1][1].value, 40);
    EXPECT_EQ(got.range[1].base, compressed ? 1 : 0);
  }
  p.ks = {2, 3}, p.ke = {1, 3};  // nothing, twice
  EXPECT_TRUE(p.reference().logit[0].empty());
  EXPECT_TRUE(p.reference().logit[1].empty());
}

// ---- Random problems

Problem random_problem(unsigned seed, std::int64_t heads, CacheLayout layout, std::int64_t requests,
                       std::int64_t length) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> normal;
  Problem p;
  p.o.layout = layout;
  p.o.heads = heads, p.o.requests = requests, p.o.next_n = 2;
  p.o.width = length, p.o.row_stride = length + 3;
  const std::int64_t columns = (length + layout.block_size - 1) / layout.block_size, d = layout.head_dim;
  p.blocks = columns * requests;
  p.cache.resize(static_cast<std::size_t>(p.blocks * layout.stride()), 0xFF);
  for (std::int64_t i = 0; i < p.o.rows() * heads * d; ++i)
    p.q.push_back(code(10 * normal(rng), layout.dtype));
  for (std::int64_t i = 0; i < p.o.rows() * heads; ++i) p.weights.push_back(static_cast<float>(normal(rng)));
  for (std::int64_t i = 0; i < requests; ++i) {
    p.lengths.push_back(static_cast<std::int32_t>(length - i * 5));
    for (std::int64_t m = 0; m < columns; ++m)
      p.table.push_back(static_cast<std::int32_t>((m * requests + i) % p.blocks));
  }
  // K of a token follows from its request and position, whatever the layout.
  for (std::int64_t i = 0; i < requests; ++i)
    for (std::int64_t n = 0; n < length; ++n) {
      std::vector<double> token;
      for (std::int64_t c = 0; c < d; ++c) token.push_back(30 * normal(rng));
      const std::int64_t b = layout.block_size;
      const float scale = std::exp2(static_cast<float>(normal(rng)));
      p.put(p.table[static_cast<std::size_t>(i * columns + n / b)] * b + n % b, token, scale);
      std::vector<std::uint8_t> codes;
      for (const double v : token) p.k.push_back(code(v, layout.dtype));
      p.scales.push_back(scale);
    }
  for (std::int64_t r = 0; r < p.o.rows(); ++r) {
    p.ks.push_back(static_cast<std::int32_t>(r / 2 * length));
    p.ke.push_back(static_cast<std::int32_t>(
        r / 2 * length + std::max<std::int64_t>(0, p.lengths[static_cast<std::size_t>(r / 2)] - 1 + r % 2)));
  }
  return p;
}

// Every order that kernels use, in fp32.
std::vector<float> fp32_logits(const Problem& p, std::int64_t row, std::int64_t n) {
  const std::int64_t d = p.o.layout.head_dim, heads = p.o.heads;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(d));
  const float s = read_token(p.o, p.in(), row / p.o.next_n, n, codes.data());
  const auto dot = [&](std::int64_t h, bool fma, bool backward) {
    float sum = 0;
    for (std::int64_t i = 0; i < d; ++i) {
      const std::int64_t c = backward ? d - 1 - i : i;
      const auto x = static_cast<float>(
          decode(p.o.layout.dtype, p.q[static_cast<std::size_t>((row * heads + h) * d + c)]));
      const auto y = static_cast<float>(decode(p.o.layout.dtype, codes[static_cast<std::size_t>(c)]));
      sum = fma ? std::fma(x, y, sum) : sum + x * y;
    }
    return std::max(sum, 0.0F);
  };
  float last = 0, heads_scaled = 0, weights_scaled = 0, backward = 0;
  for (std::int64_t h = 0; h < heads; ++h) {
    const float w = p.weights[static_cast<std::size_t>(row * heads + h)];
    last = std::fma(dot(h, true, false), w, last);
    heads_scaled += dot(h, false, false) * s * w;
    weights_scaled += dot(h, true, true) * (s * w);
    const std::int64_t b = heads - 1 - h;
    backward += dot(b, false, true) * p.weights[static_cast<std::size_t>(row * heads + b)];
  }
  return {last * s, heads_scaled, weights_scaled, backward * s};
}

TEST(MqaLogitsReference, BoundsHoldEveryOrderOfScaleAndSumAndNotAWrongBit) {
  std::int64_t elements = 0, told = 0;
  for (unsigned seed = 1; seed <= 6; ++seed) {
    const Problem p = random_problem(seed, seed % 2 == 0 ? 5 : 32,
                                     {.block_size = 16, .head_dim = 64, .quant_block = 64}, 2, 37);
    const MqaLogits want = p.reference();
    for (std::int64_t r = 0; r < p.o.rows(); ++r)
      for (std::size_t n = 0; n < want.logit[static_cast<std::size_t>(r)].size(); ++n) {
        const Bounded& e = want.logit[static_cast<std::size_t>(r)][n];
        for (const float got : fp32_logits(p, r, static_cast<std::int64_t>(n)))
          ASSERT_LE(std::fabs(got - e.value), e.suspect_bound())
              << "seed " << seed << " row " << r << " token " << n;
        ++elements;
        told += std::fabs(e.value) * 0x1p-9 > e.proven;  // an error of bf16's size is seen
      }
  }
  EXPECT_GT(told, elements * 9 / 10);
}

// ---- Top-k

std::vector<Bounded> exact(std::initializer_list<double> values) {
  std::vector<Bounded> v;
  for (const double x : values) v.push_back(Bounded::exact(x));
  return v;
}

TEST(TopkFault, AcceptsTheSetInAnyOrderAndNothingElse) {
  const std::vector<Bounded> logits = exact({1, 5, 3, 5, -2});
  const auto fault = [&](std::vector<std::int32_t> indices) {
    std::int64_t ties = 0;
    const auto why = topk_fault(logits, {}, indices.data(), static_cast<std::int64_t>(indices.size()), &ties);
    EXPECT_EQ(ties, 0);
    return why.value_or("");
  };
  EXPECT_EQ(fault({1, 2, 3}), "");
  EXPECT_EQ(fault({3, 1, 2}), "");
  EXPECT_EQ(fault({0, 1, 2, 3, 4, -1, -1}), "");
  EXPECT_EQ(fault({1}), "");  // of two equal ones either
  EXPECT_EQ(fault({3}), "");
  EXPECT_NE(fault({1, 3, 0}).find("token 0"), std::string::npos);
  EXPECT_NE(fault({1, 1, 3}).find("already"), std::string::npos);
  EXPECT_NE(fault({1, 2, 5}).find("outside"), std::string::npos);
  EXPECT_NE(fault({1, 2, -1}).find("outside"), std::string::npos);
  EXPECT_NE(fault({0, 1, 2, 3, 4, 0, -1}).find("the rest is -1"), std::string::npos);
  EXPECT_EQ(topk_of(logits, 3), (std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(topk_of(logits, 7), (std::vector<std::int32_t>{0, 1, 2, 3, 4, -1, -1}));
}

TEST(TopkFault, NearTiesAreCountedOnlyWhereTheyWereExchanged) {
  const std::vector<Bounded> logits = {
      {1.0, 0.01, 0.06}, {1.1, 0.01, 0.06}, {2, 0.01, 0.06}, {0.9, 0.01, 0.06}};
  const auto ties = [&](std::vector<std::int32_t> indices, bool right) {
    std::int64_t n = 0;
    EXPECT_EQ(!topk_fault(logits, {}, indices.data(), static_cast<std::int64_t>(indices.size()), &n), right);
    return n;
  };
  EXPECT_EQ(ties({1, 2}, true), 0);
  EXPECT_EQ(ties({0, 2}, true), 1);
  EXPECT_EQ(ties({3, 2}, false), 0);
  EXPECT_EQ(ties({0, 1}, false), 0);
}

// ---- Bad input

struct BadInput {
  const char* words;
  void (*spoil)(Problem&);
  bool cpu_refuses = true;
};

TEST(MqaLogitsBadInput, IsNamedAndNeverRead) {
  const BadInput paged[] = {
      {"context_lens[0] is -1", [](Problem& p) { p.lengths[0] = -1; }},
      {"but logits have 5 columns", [](Problem& p) { p.lengths[0] = 6; }},
      {"block_table[0, 1] is -1, outside the 4 blocks", [](Problem& p) { p.table[1] = -1; }},
      {"block_table[0, 2] is 4, outside the 4 blocks", [](Problem& p) { p.table[2] = 4; }},
      {"block_table[0, 0] is 2147483647", [](Problem& p) { p.table[0] = 2147483647; }},
      {"block_table has 2 columns", [](Problem& p) { p.table.resize(2); }},
      {"the scale of token 1 of request 0 (block 1, token 0, scale",
       [](Problem& p) {
         p.put(1, {0, 0, 0, 0}, -1);
       },
       false},
      {"is nan: scales are finite",
       [](Problem& p) {
         p.put(3, {0, 0, 0, 0}, NAN);
       },
       false},
  };
  const BadInput ragged[] = {
      {"cu_seqlen_ks[1] is -2", [](Problem& p) { p.ks[1] = -2; }},
      {"cu_seqlen_ks[0] is 4", [](Problem& p) { p.ks[0] = 4; }},
      {"cu_seqlen_ke[1] is 4: use 0 to 3", [](Problem& p) { p.ke[1] = 4; }},
      {"so that the row needs 3 columns", [](Problem& p) { p.o.width = 2; }},
      {"k_scale[1] is -2", [](Problem& p) { p.scales[1] = -2; }, false},
  };
  const auto check = [](Problem p, const BadInput& bad) {
    ASSERT_FALSE(mqa_logits_fault(p.o, p.in())) << *mqa_logits_fault(p.o, p.in());
    bad.spoil(p);
    const auto why = mqa_logits_fault(p.o, p.in());
    ASSERT_TRUE(why) << bad.words;
    EXPECT_NE(why->find(bad.words), std::string::npos) << *why;
    EXPECT_THROW(p.reference(), std::invalid_argument) << bad.words;
    if (!bad.cpu_refuses) return;
    std::vector<float> out(static_cast<std::size_t>(p.o.rows() * p.o.row_stride), 7);
    const View view{out.data(), DType::kF32, Shape(p.o.rows(), p.o.row_stride)};
    EXPECT_THROW(optimized::mqa_logits(p.o, p.in(), view, {}, {}), std::invalid_argument) << bad.words;
    for (const float v : out) EXPECT_EQ(v, 7) << bad.words;  // nothing was written before
  };
  for (const BadInput& bad : paged) check(by_hand(), bad);
  for (const BadInput& bad : ragged) check(ragged_by_hand(), bad);
}

TEST(MqaLogitsBadInput, EntriesAndTokensThatNobodySeesMayHoldAnything) {
  Problem p = by_hand();
  EXPECT_EQ(p.table[3], -1);
  p.put(2, {448, 448, 448, 448}, NAN);  // block 2 is unused
  EXPECT_FALSE(mqa_logits_fault(p.o, p.in()));
  Problem r = ragged_by_hand();
  r.ks = {0, 2}, r.ke = {1, 3};
  r.scales[1] = NAN;  // between the rows
  EXPECT_FALSE(mqa_logits_fault(r.o, r.in()));
}

// ---- The CPU version

std::vector<float> cpu_logits(const Problem& p, int threads) {
  std::vector<float> out(static_cast<std::size_t>(p.o.rows() * p.o.row_stride), 7);
  optimized::mqa_logits(p.o, p.in(), {out.data(), DType::kF32, Shape(p.o.rows(), p.o.row_stride)}, {},
                        {threads});
  return out;
}

TEST(MqaLogitsCpu, BitsDependNeitherOnThreadsNorOnLayoutBlocksOrForm) {
  const CacheLayout layouts[] = {
      {.block_size = 16, .head_dim = 128, .quant_block = 128},
      {.block_size = 1, .head_dim = 128, .quant_block = 128},
      {.block_size = 64, .head_dim = 128, .quant_block = 128, .block_stride = 8448 + 64},
      {.order = CacheOrder::kPreshuffled, .block_size = 16, .head_dim = 128, .quant_block = 128},
      {.order = CacheOrder::kPreshuffled, .block_size = 256, .head_dim = 128, .quant_block = 128},
  };
  const std::vector<float> want = cpu_logits(random_problem(3, 7, layouts[0], 3, 150), 1);
  EXPECT_EQ(std::count(want.begin(), want.end(), 7.0F), 6 * 3) << "the padding of the rows is left alone";
  for (const CacheLayout& layout : layouts)
    for (const int threads : {1, 2, 5}) {
      const std::vector<float> got = cpu_logits(random_problem(3, 7, layout, 3, 150), threads);
      EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * 4), 0)
          << layout.str() << " threads " << threads;
    }
  Problem ragged = random_problem(3, 7, layouts[0], 3, 150);
  ragged.o.form = LogitsForm::kRagged, ragged.o.compressed = true;
  const std::vector<float> got = cpu_logits(ragged, 2);
  EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * 4), 0);
}

}  // namespace
}  // namespace moecheck::reference
