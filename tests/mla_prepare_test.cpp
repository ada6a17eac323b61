// mla_prepare: the reference against numbers by hand, the CPU version, and what is refused.
// The rotation: rope_test.cpp. The contract's judge and relations: mla_prepare_contract_test.cpp.
#include "reference/mla_prepare.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "optimized/cpu/mla_prepare.h"

namespace moecheck::reference {
namespace {

// Section 1.5's example: 0.68359375 / 0x3B600000 is 200, a tie between the codes 0x74 and 0x75; the reciprocal lies a little above.
TEST(CacheScaling, DivisionAndReciprocalGiveTheBytesOfTheNotes) {
  const double s = 0x1.Cp-9;
  const auto code = [&](CacheScaling scaling) {
    const Bounded b = scaled(scaling, Bounded::exact(0.68359375), s);
    EXPECT_TRUE(b.is_exact());
    return encode(DType::kE4M3FN, b.value, Overflow::kSaturate);
  };
  EXPECT_EQ(code(CacheScaling::kDivide), 0x74U);
  EXPECT_EQ(code(CacheScaling::kReciprocal), 0x75U);
  const Bounded any = scaled(CacheScaling::kAny, Bounded::exact(0.68359375), s);
  EXPECT_LT(any.value - any.proven, 200);
  EXPECT_GT(any.value + any.proven, 200);
  for (const CacheScaling scaling : {CacheScaling::kDivide, CacheScaling::kReciprocal, CacheScaling::kAny}) {
    EXPECT_EQ(scaled(scaling, Bounded::exact(3), 0.25).value, 12);
    EXPECT_TRUE(scaled(scaling, Bounded::exact(3), 0.25).is_exact());
  }
}

// A problem small enough to write down: 3 query rows, 4 key rows, values that every format holds.
struct Small {
  MlaPrepareOptions o;
  std::vector<std::uint16_t> q_nope, q_pe, k_nope, k_pe, cos, sin, q_out, k_pe_out, decode, zeros;
  std::vector<std::int64_t> positions = {1, 0, 2}, slots = {5, -1, 30, 17};
  std::vector<std::uint8_t> cache;
  float k_scale = 0.5F;
  std::int64_t tokens = 3, rows = 4;
  bool has_scale = true;

  static std::vector<std::uint16_t> numbers(std::int64_t n, int step, int modulus) {
    std::vector<std::uint16_t> v(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < v.size(); ++i)
      v[i] = static_cast<std::uint16_t>(
          encode(DType::kBF16, static_cast<int>(i) * step % modulus - modulus / 2));
    return v;
  }

  explicit Small(CacheOrder order, DType dtype, std::int64_t kv_heads = 1,
                 RopeStyle style = RopeStyle::kGptj) {
    o.heads = 2, o.kv_heads = kv_heads, o.nope_dim = 32;
    o.rope.dim = 16, o.rope.style = style, o.rope.dtype = DType::kBF16;
    o.layout = mla_cache_layout(order, dtype, 16, kv_heads, 32, 16);
    q_nope = numbers(tokens * 2 * 32, 7, 17), q_pe = numbers(tokens * 2 * 16, 5, 13);
    k_nope = numbers(rows * kv_heads * 32, 11, 15), k_pe = numbers(rows * kv_heads * 16, 3, 11);
    cos = numbers(4 * 8, 1, 3), sin = numbers(4 * 8, 2, 3);  // -1, 0, 1
    cache.assign(static_cast<std::size_t>(2 * 16 * kv_heads * 48 * size_bytes(dtype)), 0xA5);
    q_out.resize(static_cast<std::size_t>(tokens * 2 * 48), 0xFFFF);
    k_pe_out.resize(static_cast<std::size_t>(rows * kv_heads * 16), 0xFFFF);
    decode.resize(2 * 2 * 16, 0xFFFF), zeros.resize(2 * 2 * 32, 0xFFFF);
  }
  MlaPrepareInputs in() const {
    const DType t = DType::kBF16, i = DType::kI64;
    MlaPrepareInputs r{{q_nope.data(), t, Shape(tokens, 2, 32)},
                       {q_pe.data(), t, Shape(tokens, 2, 16)},
                       {k_nope.data(), t, Shape(rows, o.kv_heads, 32)},
                       {k_pe.data(), t, Shape(rows, o.kv_heads, 16)},
                       {positions.data(), i, Shape(tokens)},
                       {cos.data(), t, Shape(4, 8)},
                       {sin.data(), t, Shape(4, 8)},
                       {slots.data(), i, Shape(rows)},
                       {},
                       {}};
    if (has_scale) r.k_scale = {&k_scale, DType::kF32, Shape(1)};
    return r;
  }
  MlaPrepareOutputs out() {
    const DType t = DType::kBF16;
    return {{q_out.data(), t, Shape(tokens, 2, 48)},
            {cache.data(), o.layout.dtype, Shape(2, 16, o.kv_heads, 48)},
            {k_pe_out.data(), t, Shape(rows, o.kv_heads, 16)},
            {decode.data(), t, Shape(2, 2, 16)},
            {zeros.data(), t, Shape(2, 2, 32)}};
  }
  double number(const std::vector<std::uint16_t>& v, std::int64_t i) const {
    return load(DType::kBF16, v.data(), i);
  }

  // The rope part of row `row` of `pe` at `position`, by the formula.
  double roped(const std::vector<std::uint16_t>& pe, std::int64_t row, std::int64_t position,
               std::int64_t c) const {
    const bool neox = o.rope.style == RopeStyle::kNeox;
    const std::int64_t i = neox ? c % 8 : c / 2, a = neox ? i : 2 * i, b = neox ? i + 8 : 2 * i + 1;
    const double x = number(pe, row * 16 + a), y = number(pe, row * 16 + b),
                 cs = number(cos, position * 8 + i), sn = number(sin, position * 8 + i);
    return c == a ? x * cs - y * sn : y * cs + x * sn;
  }
};

// Section 4.1, line by line, and its offsets: nope tiles of all of the block's tokens, then rope tiles, 16 bytes a run.
void expect_by_hand(Small& s) {
  const std::int64_t kh = s.o.kv_heads, size = size_bytes(s.o.layout.dtype), width = 16 / size;
  for (std::int64_t t = 0; t < s.tokens; ++t)
    for (std::int64_t h = 0; h < 2; ++h)
      for (std::int64_t c = 0; c < 48; ++c) {
        const std::int64_t row = t * 2 + h;
        const double want = c < 32 ? s.number(s.q_nope, row * 32 + c)
                                   : s.roped(s.q_pe, row, s.positions[static_cast<std::size_t>(t)], c - 32);
        ASSERT_EQ(s.number(s.q_out, row * 48 + c), want) << "q " << t << " " << h << " " << c;
        if (c >= 32 && t < 2) {
          ASSERT_EQ(s.number(s.decode, row * 16 + c - 32), want);
        }
      }
  for (const std::uint16_t z : s.zeros) ASSERT_EQ(z, 0);
  std::vector<bool> written(s.cache.size(), false);
  for (std::int64_t t = 0; t < s.rows; ++t)
    for (std::int64_t g = 0; s.slots[static_cast<std::size_t>(t)] >= 0 && g < kh; ++g)
      for (std::int64_t c = 0; c < 48; ++c) {
        const std::int64_t slot = s.slots[static_cast<std::size_t>(t)], block = slot / 16, o = slot % 16,
                           row = t * kh + g;
        const double pe = c < 32 ? 0
                          : t < s.tokens
                              ? s.roped(s.k_pe, row, s.positions[static_cast<std::size_t>(t)], c - 32)
                              : s.number(s.k_pe, row * 16 + c - 32);
        const double want = (c < 32 ? s.number(s.k_nope, row * 32 + c) : pe) / (s.has_scale ? s.k_scale : 1);
        std::int64_t element = (slot * kh + g) * 48 + c;
        if (s.o.layout.order == CacheOrder::kPreshuffled) {
          const std::int64_t base = (block * kh + g) * 16 * 48, dim = c < 32 ? 32 : 16,
                             k = c < 32 ? c : c - 32;
          element = base + (c < 32 ? 0 : 16 * 32) + o / 16 * 16 * dim + k / width * width * 16 +
                    o % 16 * width + k % width;
        }
        ASSERT_EQ(load(s.o.layout.dtype, s.cache.data(), element), want) << "k " << t << " " << g << " " << c;
        for (std::int64_t b = 0; b < size; ++b) written[static_cast<std::size_t>(element * size + b)] = true;
        if (c >= 32) {
          ASSERT_EQ(s.number(s.k_pe_out, row * 16 + c - 32), pe);
        }
      }
  for (std::size_t i = 0; i < s.cache.size(); ++i)
    if (!written[i]) {
      ASSERT_EQ(s.cache[i], 0xA5) << "byte " << i << " belongs to nobody";
    }
}

template <class Run>
void each_small(Run run) {
  for (const CacheOrder order : {CacheOrder::kRowMajor, CacheOrder::kPreshuffled})
    for (const DType dtype : {DType::kBF16, DType::kE4M3FN, DType::kE4M3FNUZ})
      for (const std::int64_t heads : {1, 2})
        for (const RopeStyle style : {RopeStyle::kGptj, RopeStyle::kNeox})
          for (const bool scaled : {false, true}) {
            Small s(order, dtype, heads, style);
            s.has_scale = scaled;
            run(s);
            expect_by_hand(s);
          }
}

TEST(MlaPrepare, ReferenceIsTheFormula) {
  each_small([](Small& s) { mla_prepare(s.in(), s.o, s.out()); });
}

TEST(MlaPrepare, CpuIsTheFormulaForAnyNumberOfThreads) {
  for (const int threads : {1, 3})
    each_small([&](Small& s) { optimized::mla_prepare(s.in(), s.o, s.out(), {threads}); });
}

TEST(MlaPrepare, PaddedRowsFollowTheirRule) {
  Small skip(CacheOrder::kRowMajor, DType::kBF16);
  skip.o.padded = PaddedQuery::kSkip;
  skip.positions[1] = 999;
  mla_prepare(skip.in(), skip.o, skip.out());
  for (int i = 0; i < 2 * 48; ++i)
    ASSERT_EQ(skip.q_out[static_cast<std::size_t>(96 + i)], 0xFFFF) << "row 1 is left as it was";
  Small clamp(CacheOrder::kRowMajor, DType::kBF16);
  clamp.o.padded = PaddedQuery::kClamp;
  for (const auto& [stale, row] : {std::pair{-4, 0}, {99, 3}}) {
    clamp.positions[1] = stale;
    mla_prepare(clamp.in(), clamp.o, clamp.out());
    EXPECT_EQ(clamp.number(clamp.q_out, 2 * 48 + 32), clamp.roped(clamp.q_pe, 2, row, 0));
    Small cpu = clamp;
    optimized::mla_prepare(cpu.in(), cpu.o, cpu.out());
    EXPECT_EQ(cpu.q_out, clamp.q_out);
  }
}

// Past the largest number: 448 (464 and above round away) and 240 (248).
TEST(MlaPrepare, OverflowFollowsItsRuleInEachPart) {
  for (const auto& [dtype, largest, below, above] :
       {std::tuple{DType::kE4M3FN, 448.0, 460.0, 470.0}, {DType::kE4M3FNUZ, 240.0, 244.0, 250.0}}) {
    Small s(CacheOrder::kRowMajor, dtype);
    s.has_scale = false;
    s.o.nope_overflow = CastOverflow::kSaturate, s.o.rope_overflow = CastOverflow::kNaN;
    const auto put = [](std::vector<std::uint16_t>& v, std::int64_t i, double x) {
      v[static_cast<std::size_t>(i)] = static_cast<std::uint16_t>(encode(DType::kBF16, x));
    };
    // Row 3 is a prefill row: it is not rotated.
    put(s.k_nope, 3 * 32, above), put(s.k_nope, 3 * 32 + 1, -INFINITY), put(s.k_nope, 3 * 32 + 2, NAN),
        put(s.k_nope, 3 * 32 + 3, -0.0);
    put(s.k_pe, 3 * 16, above), put(s.k_pe, 3 * 16 + 1, -below), put(s.k_pe, 3 * 16 + 2, NAN),
        put(s.k_pe, 3 * 16 + 3, INFINITY);
    for (const bool cpu : {false, true}) {
      if (cpu)
        optimized::mla_prepare(s.in(), s.o, s.out());
      else
        mla_prepare(s.in(), s.o, s.out());
      const auto stored = [&](std::int64_t c) { return load(dtype, s.cache.data(), 17 * 48 + c); };
      EXPECT_EQ(stored(0), largest);
      EXPECT_EQ(stored(1), -largest);
      EXPECT_TRUE(std::isnan(stored(2)));
      EXPECT_EQ(s.cache[17 * 48 + 3], dtype == DType::kE4M3FN ? 0x80 : 0x00) << "-0";
      EXPECT_TRUE(std::isnan(stored(32)));
      EXPECT_EQ(stored(33), -largest) << "nearest to " << -below;
      EXPECT_TRUE(std::isnan(stored(34)));
      EXPECT_TRUE(std::isnan(stored(35)));
    }
  }
}

// Every bf16 number through the CPU's cast, against the number formats of the reference.
TEST(MlaPrepare, CpuCastsEveryBf16NumberAsTheReferenceDoes) {
  for (const DType dtype : {DType::kE4M3FN, DType::kE4M3FNUZ})
    for (const CastOverflow overflow : {CastOverflow::kSaturate, CastOverflow::kNaN}) {
      MlaPrepareOptions o;
      o.nope_dim = 1 << 16, o.rope.dim = 2;
      o.nope_overflow = overflow;
      o.layout = mla_cache_layout(CacheOrder::kRowMajor, dtype, 1, 1, o.nope_dim, 2);
      std::vector<std::uint16_t> k(1 << 16), pe(2, 0);
      for (std::size_t i = 0; i < k.size(); ++i) k[i] = static_cast<std::uint16_t>(i);
      std::vector<std::uint8_t> cache(static_cast<std::size_t>(o.width()), 0xA5);
      const std::int64_t slot = 0;
      const DType t = DType::kBF16;
      MlaPrepareInputs in{{nullptr, t, Shape(0, 1, o.nope_dim)},
                          {nullptr, t, Shape(0, 1, 2)},
                          {k.data(), t, Shape(1, 1, o.nope_dim)},
                          {pe.data(), t, Shape(1, 1, 2)},
                          {nullptr, DType::kI64, Shape(0)},
                          {nullptr, t, Shape(1, 1)},
                          {nullptr, t, Shape(1, 1)},
                          {&slot, DType::kI64, Shape(1)},
                          {},
                          {}};
      optimized::mla_prepare(in, o,
                             {{nullptr, t, Shape(0, 1, o.width())},
                              {cache.data(), dtype, Shape(1, 1, 1, o.width())},
                              {},
                              {},
                              {}});
      for (std::size_t i = 0; i < k.size(); ++i) {
        const double v = decode(t, i), got = decode(dtype, cache[i]);
        const std::uint64_t want = encode(
            dtype, v, overflow == CastOverflow::kSaturate ? Overflow::kSaturate : Overflow::kNonSaturating);
        if (std::isnan(decode(dtype, want))) {
          ASSERT_TRUE(std::isnan(got)) << v;
        } else {
          ASSERT_EQ(cache[i], want) << v;
        }
      }
    }
}

TEST(MlaPrepare, CpuRefusesWhatLiesOutsideAndWritesNothing) {
  const auto refused = [](auto change, std::string_view words) {
    Small s(CacheOrder::kPreshuffled, DType::kE4M3FN);
    change(s);
    const std::vector<std::uint8_t> before = s.cache;
    try {
      optimized::mla_prepare(s.in(), s.o, s.out());
      ADD_FAILURE() << "not refused: " << words;
    } catch (const std::invalid_argument& e) {
      EXPECT_NE(std::string_view(e.what()).find(words), std::string_view::npos) << e.what();
    }
    EXPECT_EQ(s.cache, before);
  };
  refused([](Small& s) { s.slots[3] = 32; }, "slot_mapping[3] = 32");
  refused([](Small& s) { s.slots[0] = INT64_MAX; }, "slot_mapping[0]");
  refused([](Small& s) { s.positions[2] = 4; }, "positions[2] = 4");
  refused([](Small& s) { s.positions[0] = -1; }, "positions[0] = -1");
  refused([](Small& s) { s.positions[1] = 4; }, "positions[1] = 4");  // padded, and compute_q reads it
  Small skip(CacheOrder::kPreshuffled, DType::kE4M3FN);
  skip.o.padded = PaddedQuery::kSkip;
  skip.positions[1] = 4;
  EXPECT_NO_THROW(optimized::mla_prepare(skip.in(), skip.o, skip.out()));
}

// Tokens with one slot: the last one wins, whatever the number of threads.
TEST(MlaPrepare, CpuIsDeterministicOnDuplicateSlots) {
  Small one(CacheOrder::kPreshuffled, DType::kE4M3FN), three = one, by_reference = one;
  for (Small* s : {&one, &three, &by_reference}) s->slots = {7, 7, 7, 7};
  optimized::mla_prepare(one.in(), one.o, one.out(), {1});
  optimized::mla_prepare(three.in(), three.o, three.out(), {3});
  mla_prepare(by_reference.in(), by_reference.o, by_reference.out());
  EXPECT_EQ(one.cache, three.cache);
  EXPECT_EQ(one.cache, by_reference.cache);
}

TEST(Concat, KeepsEveryBit) {
  std::vector<std::uint16_t> nope, pe, want, got, reference;
  std::uint16_t bits = 0x7F81;
  for (int row = 0; row < 2 * 3; ++row) {
    for (int c = 0; c < 7; ++c) nope.push_back(bits += 0x1F3B), want.push_back(bits);
    for (int c = 0; c < 5; ++c) pe.push_back(bits += 0x1F3B), want.push_back(bits);
  }
  got.resize(want.size()), reference.resize(want.size());
  const ConstView a{nope.data(), DType::kBF16, Shape(2, 3, 7)}, b{pe.data(), DType::kBF16, Shape(2, 3, 5)};
  optimized::concat_mla_absorb_q(a, b, {got.data(), DType::kBF16, Shape(2, 3, 12)}, {2});
  concat_mla_absorb_q(a, b, {reference.data(), DType::kBF16, Shape(2, 3, 12)});
  EXPECT_EQ(got, want);
  EXPECT_EQ(reference, want);
}

TEST(CatSkip, KeepsMemoryAndStridesUnlessItMayCopy) {
  const std::vector<std::uint16_t> q(2 * 3 * 10, 0x7FC1);
  const ConstView view{q.data(), DType::kBF16, Shape(2, 3, 10)};
  using Strides = std::array<std::int64_t, 3>;
  const auto side_by_side = optimized::cat_skip(view, 10, true);
  EXPECT_EQ(side_by_side.data, q.data());
  EXPECT_EQ(side_by_side.strides, (Strides{30, 10, 1}));
  const auto strided = optimized::cat_skip(view, 8, false);
  EXPECT_EQ(strided.data, q.data());
  EXPECT_EQ(strided.strides, (Strides{30, 10, 1}));
  const auto copied = optimized::cat_skip(view, 8, true);
  EXPECT_NE(copied.data, q.data());
  EXPECT_EQ(copied.strides, (Strides{24, 8, 1}));
  EXPECT_EQ(copied.copy.size(), 2U * 3 * 8 * 2);
}

// The composition that the fused step replaces, in the reference: rotate and store, then write the stored numbers unrotated.
RC_GTEST_PROP(MlaPrepareProperties, StoredRotationsMayBeDoneBefore, ()) {
  Small s(*rc::gen::element(CacheOrder::kRowMajor, CacheOrder::kPreshuffled),
          *rc::gen::element(DType::kBF16, DType::kE4M3FN), 1,
          *rc::gen::element(RopeStyle::kGptj, RopeStyle::kNeox));
  s.o.rope.rounding = *rc::gen::element(RopeRounding::kPerOp, RopeRounding::kStored);
  s.k_scale = *rc::gen::element(0.5F, 0.3F, 0.011F);
  for (auto* table : {&s.cos, &s.sin, &s.k_pe})
    for (std::uint16_t& v : *table)
      v = static_cast<std::uint16_t>(encode(DType::kBF16, *rc::gen::inRange(-1000, 1000) * 0.001));
  mla_prepare(s.in(), s.o, s.out());
  Small plain = s;
  plain.cache.assign(plain.cache.size(), 0xA5);
  plain.k_pe = s.k_pe_out;
  for (std::uint16_t& v : plain.k_pe)
    if (v == 0xFFFF) v = 0;  // rows without a slot
  plain.cos.assign(plain.cos.size(), 0x3F80), plain.sin.assign(plain.sin.size(), 0);
  mla_prepare(plain.in(), plain.o, plain.out());
  for (std::size_t i = 0; i < s.cache.size(); ++i) {
    const bool zeros =
        s.cache[i] << 1 == 0x100 || plain.cache[i] << 1 == 0x100;  // x * 1 - y * 0 loses the sign of zero
    RC_ASSERT(s.cache[i] == plain.cache[i] || zeros);
  }
}

}  // namespace
}  // namespace moecheck::reference
