#include "optimized/cpu/indexer_cache_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/indexer_cache_row.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {

// e4m3fn and e4m3fnuz: exponent bias 7 and 8, largest number 448 and 240.
template <bool kFnuz>
struct E4M3 {
  static constexpr float kMax = kFnuz ? 240 : 448;
  static constexpr std::uint32_t kMinNormal = (kFnuz ? 120U : 121U) << 23;  // 2^-7, 2^-6 as fp32
  // What is left in the low 7 bits of the sum below is the code less this.
  static constexpr std::uint32_t kOffset = kFnuz ? 32 : 24;
};

// Codes, in the low byte, of numbers that round to no more than the largest. Nearest even, by one addition: of M = 2^(e + 20), whose
// last bit is the 2^(e - 3) that a code of v's exponent e counts in (that of the smallest normal number, where v is less):
//
//   v + M = (2^23 + n) 2^(e - 3)     code = 8 (e + bias) + n - 8     low 7 bits: n + kOffset + the exponent of M from bit 3 on
//
// kOffset is even, so adding it to M beforehand leaves ties where they are.
template <bool kFnuz>
HWY_INLINE VU magic_of(VF v) {
  const DU du;
  const VU exponent = hn::And(float_as_bits(v), hn::Set(du, 0x7F800000));
  return hn::Add(hn::Max(exponent, hn::Set(du, E4M3<kFnuz>::kMinNormal)),
                 hn::Set(du, (20U << 23) + E4M3<kFnuz>::kOffset));
}
HWY_INLINE VF with_sign_of(VU magic, VF v) {
  return bits_as_float(hn::OrAnd(magic, float_as_bits(v), hn::Set(DU(), 0x80000000)));
}
// The code from v + M.
template <bool kFnuz>
HWY_INLINE VU code_of_sum(VU magic, VF sum, VF v) {
  const DU du;
  VU low = hn::And(hn::Add(float_as_bits(sum), hn::ShiftRight<20>(magic)), hn::Set(du, 0x7F));
  if (fault(Fault::kIndexerFlushesSmallCodes)) low = hn::IfThenZeroElse(hn::Lt(low, hn::Set(du, 8)), low);
  const VU code = hn::Or(low, hn::And(hn::ShiftRight<24>(float_as_bits(v)), hn::Set(du, 0x80)));
  if (kFnuz && !fault(Fault::kIndexerMinusZeroFnuz))
    return hn::IfThenElse(hn::Eq(low, hn::Zero(du)), low, code);
  return code;
}

template <bool kFnuz>
HWY_INLINE VU encode_e4m3(VF v) {
  const VU magic = magic_of<kFnuz>(v);
  VF number = v;
  if (fault(Fault::kIndexerTruncates))
    number = bits_as_float(hn::And(float_as_bits(v), hn::Set(DU(), 0xFFF00000)));
  return code_of_sum<kFnuz>(magic, hn::Add(number, with_sign_of(magic, v)), v);
}

// Of any numbers: saturating, NaN becomes nan_code.
template <bool kFnuz>
HWY_INLINE VU encode_e4m3_any(VF v, VU nan_code) {
  const VF most = hn::Set(DF(), E4M3<kFnuz>::kMax);
  const VU code = encode_e4m3<kFnuz>(hn::Min(hn::Max(v, hn::Neg(most)), most));
  return hn::IfThenElse(hn::RebindMask(DU(), hn::IsNaN(v)), nan_code, code);
}

// Stored numbers as unsigned integers: without the sign they have the numbers' order.
template <class Stored>
using Bits = std::conditional_t<sizeof(typename Stored::Lane) == 4, std::uint32_t, std::uint16_t>;

// The largest magnitude of n stored numbers, compared so: NaN and Inf are the largest.
template <class Stored>
HWY_INLINE Bits<Stored> largest_bits(const typename Stored::Lane* k, std::int64_t n) {
  using T = Bits<Stored>;
  constexpr T kMask = static_cast<T>(-1) >> 1;
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto top = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    top = hn::Max(top, hn::And(hn::BitCast(d, hn::LoadU(hn::ScalableTag<typename Stored::Lane>(), k + i)),
                               hn::Set(d, kMask)));
  T largest = hn::GetLane(hn::MaxOfLanes(d, top));
  for (; i < n; ++i) largest = std::max<T>(largest, std::bit_cast<T>(k[i]) & kMask);
  return largest;
}

HWY_INLINE float number_of(StoredF32, std::uint32_t bits) { return std::bit_cast<float>(bits); }
HWY_INLINE float number_of(StoredBF16, std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
HWY_INLINE float number_of(StoredF16, std::uint16_t bits) {
  if (bits >= 0x7C00) return std::numeric_limits<float>::infinity();
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 13) * 0x1p112F;
}

// The same as numbers. NaN is passed over: it is greater than nothing.
template <class Stored>
HWY_INLINE float amax_of(const typename Stored::Lane* k, std::int64_t n) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto larger = [](VF amax, VF v) HWY_ATTR {
    const VF size = fault(Fault::kIndexerSignedAmax) ? v : hn::Abs(v);
    return hn::IfThenElse(hn::Gt(size, amax), size, amax);
  };
  VF amax = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) amax = larger(amax, Stored::load(k + i));
  if (i < n) amax = larger(amax, load_tail<Stored>(k + i, static_cast<std::size_t>(n - i)));
  return hn::GetLane(hn::MaxOfLanes(d, amax));
}

HWY_INLINE VF scale_of(const reference::IndexerQuant& q, VF amax) {
  const DF d;
  const DU du;
  if (fault(Fault::kIndexerScaleInBf16)) amax = round_bf16(amax);
  float f = static_cast<float>(q.divisor);
  if (fault(Fault::kIndexerOtherDivisor)) f = f == 240 ? 224 : 240;
  const VF floor = hn::Set(d, static_cast<float>(q.amax_floor));
  if (!fault(Fault::kIndexerNoFloor) && !fault(Fault::kIndexerFloorOfScale)) amax = hn::Max(amax, floor);
  const bool reciprocal = q.scale_op == reference::DivisionOp::kReciprocal;
  VF s = reciprocal ? hn::Mul(amax, hn::Set(d, 1.0F / f)) : hn::Div(amax, hn::Set(d, f));
  if (fault(Fault::kIndexerScaleInBf16)) s = round_bf16(s);
  if (fault(Fault::kIndexerFloorOfScale)) s = hn::Max(s, floor);
  if (!q.ue8m0 || fault(Fault::kIndexerUe8m0Ignored)) return s;
  // The power of two above: the mantissa's carry. Inf stays.
  const VU up = hn::Set(du, fault(Fault::kIndexerUe8m0Floor) ? 0 : 0x7FFFFF);
  return bits_as_float(hn::And(hn::Add(float_as_bits(s), up), hn::Set(du, 0x7F800000)));
}

// codes[i] = code_of(k[i]), a vector at a time.
template <class Stored, class CodeOf>
HWY_INLINE void encode_all(const typename Stored::Lane* k, std::int64_t n, std::uint8_t* codes,
                           CodeOf code_of) {
  const DU8 d8;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(DF()));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::TruncateTo(d8, code_of(Stored::load(k + i))), d8, codes + i);
  if (i == n) return;
  std::uint8_t tail[HWY_MAX_BYTES / sizeof(float)];
  hn::StoreU(hn::TruncateTo(d8, code_of(load_tail<Stored>(k + i, static_cast<std::size_t>(n - i)))), d8,
             tail);
  std::memcpy(codes + i, tail, static_cast<std::size_t>(n - i));
}

// by: the scale or, with kMultiply, its reciprocal.
template <class Stored, bool kFnuz, bool kMultiply, bool kFinite>
HWY_INLINE void encode_group(const typename Stored::Lane* k, std::int64_t n, float by, VU nan_code,
                             std::uint8_t* codes) {
  const VF factor = hn::Set(DF(), by);
  encode_all<Stored>(k, n, codes, [&](VF v) HWY_ATTR {
    v = kMultiply ? hn::Mul(v, factor) : hn::Div(v, factor);
    return kFinite ? encode_e4m3<kFnuz>(v) : encode_e4m3_any<kFnuz>(v, nan_code);
  });
}

HWY_INLINE VU select_bits(VU mask, VU yes, VU no) {
#if HWY_TARGET == HWY_AVX3
  return hn::IfVecThenElse(mask, yes, no);
#else
  return hn::Or(hn::And(mask, yes), hn::AndNot(mask, no));
#endif
}

// The same for finite bf16, a pair of numbers to each 32-bit word: signs are kept apart and put back into both codes at once.
// n: a multiple of twice the lanes.
template <bool kFnuz, bool kMultiply>
HWY_INLINE void encode_pairs(const std::uint16_t* k, std::int64_t n, float by, std::uint8_t* codes) {
  const DU du;
  const DU16 d16;
  const hn::Repartition<std::uint8_t, DU16> d8;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(du));
  const VF factor = hn::Set(DF(), by);
  const auto sum_of = [&](VU bits) HWY_ATTR {
    const VF v = kMultiply ? hn::Mul(bits_as_float(bits), factor) : hn::Div(bits_as_float(bits), factor);
    const VU magic = magic_of<kFnuz>(v);
    return hn::Add(float_as_bits(hn::Add(v, bits_as_float(magic))), hn::ShiftRight<20>(magic));
  };
  for (std::int64_t i = 0; i < n; i += 2 * lanes) {
    const VU words = hn::BitCast(du, hn::LoadU(hn::ScalableTag<std::uint16_t>(), k + i));
    const VU even = sum_of(hn::And(hn::ShiftLeft<16>(words), hn::Set(du, 0x7FFF0000)));
    const VU odd = sum_of(hn::And(words, hn::Set(du, 0x7FFF0000)));
    const VU low = select_bits(hn::Set(du, 0x7F), even, hn::ShiftLeft<8>(odd));
    const VU sign = select_bits(hn::Set(du, 0x80), hn::ShiftRight<8>(words), hn::ShiftRight<16>(words));
    const auto code = hn::BitCast(d8, hn::TruncateTo(d16, select_bits(hn::Set(du, 0x7F7F), low, sign)));
    hn::StoreU(kFnuz ? hn::IfThenZeroElse(hn::Eq(code, hn::Set(d8, 0x80)), code) : code, d8, codes + i);
  }
}

// bf16 by a power of two, as 16-bit integers: with exponents from the same point on, a code is the rounded number's upper bits. That
// holds for codes of normal numbers; returns false, with nothing useful written, where one of the n is smaller.
template <bool kFnuz>
HWY_INLINE bool encode_by_power(const std::uint16_t* k, std::int64_t n, float scale, std::uint8_t* codes) {
  const hn::ScalableTag<std::uint16_t> d;
  const hn::Rebind<std::uint8_t, decltype(d)> d8;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (n % lanes != 0) return false;
  // Both exponents have a bias: 127, and 7 or 8. The scale has its own 127.
  const int first = static_cast<int>(std::bit_cast<std::uint32_t>(scale) >> 23) - (kFnuz ? 8 : 7);
  if (first < 0) return false;
  const auto base = hn::Set(d, static_cast<std::uint16_t>(first << 3));
  auto least = hn::Set(d, 0xFFFF);
  for (std::int64_t i = 0; i < n; i += lanes) {
    const auto bits = hn::LoadU(d, k + i), size = hn::And(bits, hn::Set(d, 0x7FFF));
    const auto half = hn::Add(hn::And(hn::ShiftRight<4>(size), hn::Set(d, 1)), hn::Set(d, 7));
    const auto upper = hn::ShiftRight<4>(hn::Add(size, half));
    least = hn::Min(least, upper);
    const auto code = hn::Or(hn::Sub(upper, base), hn::And(hn::ShiftRight<8>(bits), hn::Set(d, 0x80)));
    hn::StoreU(hn::TruncateTo(d8, code), d8, codes + i);
  }
  return hn::AllFalse(d, hn::Lt(least, hn::Add(base, hn::Set(d, 8))));
}

// What is known of the groups of some rows.
struct Groups {
  static constexpr std::int64_t kMost = 64;

  float largest[kMost];  // magnitude; Inf or NaN where the group has one
  float by[kMost];       // what k is multiplied with, or divided by
  bool within[kMost];    // no code saturates; set where all_within is not
  bool all_within = true;
};

template <class Stored>
HWY_INLINE void find_largest(std::int64_t group, const KeyRows& in, Groups& g) {
  const auto* k = in.k.as<typename Stored::Lane>() + in.first;
  float* largest = g.largest;
  for (std::int64_t row = 0; row < in.rows; ++row)
    for (std::int64_t c = 0; c < in.n; c += group) {
      // Kernels wired to 128 channels look at those whatever the group is.
      const std::int64_t from = fault(Fault::kIndexerAmaxOf128) ? c / 128 * 128 : c;
      const std::int64_t seen =
          fault(Fault::kIndexerAmaxOf128) ? std::min<std::int64_t>(128, in.n - from) : group;
      *largest++ = number_of(Stored(), largest_bits<Stored>(k + row * in.stride + from, seen));
    }
}

// Codes are within the format where the largest quotient is F, or a rounding error more: everywhere but in groups with NaN or Inf
// (and in those of some faults).
template <bool kFnuz, bool kMultiply>
HWY_INLINE void find_scales(const reference::IndexerQuant& q, std::int64_t count, Groups& g, float* scales) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool never = fault(Fault::kIndexerSignedAmax) || fault(Fault::kIndexerAmaxOf128);
  for (std::int64_t i = 0; i < count; i += lanes) {
    float scale[HWY_MAX_BYTES / sizeof(float)];
    const VF largest = hn::LoadU(d, g.largest + i), s = scale_of(q, largest);
    hn::StoreU(kMultiply ? hn::Div(hn::Set(d, 1.0F), s) : s, d, g.by + i);
    hn::StoreU(s, d, scale);
    const std::int64_t n = std::min(lanes, count - i);
    std::memcpy(scales + i, scale, static_cast<std::size_t>(n) * sizeof(float));
    const VF most = hn::Mul(s, hn::Set(d, 1.01F * E4M3<kFnuz>::kMax));
    const auto within = hn::And(hn::Lt(largest, most), hn::Lt(largest, hn::Inf(d)));
    g.all_within = g.all_within && hn::AllTrue(d, within) && !never;
  }
  if (g.all_within) return;
  for (std::int64_t i = 0; i < count; ++i)
    g.within[i] =
        g.largest[i] < 1.01F * E4M3<kFnuz>::kMax * scales[i] && std::isfinite(g.largest[i]) && !never;
}

template <class Stored, bool kFnuz, bool kMultiply>
HWY_INLINE void encode_rows(const reference::IndexerQuant& q, std::int64_t group, const KeyRows& in,
                            const Groups& g, float* scales, std::uint8_t* codes) {
  const bool clamped = q.non_finite == reference::NonFiniteKeys::kClamped;
  const VU nan_code = hn::Set(DU(), clamped ? (kFnuz ? 0xFFU : 0xFEU) : (kFnuz ? 0x80U : 0x7FU));
  // One way for all is enough for faults in it.
  const bool usual = !fault(Fault::kIndexerTruncates) && !fault(Fault::kIndexerFlushesSmallCodes) &&
                     !fault(Fault::kIndexerMinusZeroFnuz);
  const bool by_power = usual && q.ue8m0 && !fault(Fault::kIndexerUe8m0Ignored);
  const bool in_pairs = usual && group % (2 * static_cast<std::int64_t>(hn::Lanes(DF()))) == 0;
  const auto* k = in.k.as<typename Stored::Lane>() + in.first;
  std::int64_t i = 0;
  for (std::int64_t row = 0; row < in.rows; ++row)
    for (std::int64_t c = 0; c < in.n; c += group, codes += group, ++i) {
      const auto* p = k + row * in.stride + c;
      if (g.all_within || g.within[i]) {
        if constexpr (std::is_same_v<Stored, StoredBF16>) {
          if (by_power && encode_by_power<kFnuz>(p, group, scales[i], codes)) continue;
          if (in_pairs) {
            encode_pairs<kFnuz, kMultiply>(p, group, g.by[i], codes);
            continue;
          }
        }
        encode_group<Stored, kFnuz, kMultiply, true>(p, group, g.by[i], nan_code, codes);
        continue;
      }
      // amax passes NaN over.
      if (!fault(Fault::kIndexerAmaxOf128))
        scales[i] = hn::GetLane(scale_of(q, hn::Set(DF(), amax_of<Stored>(p, group))));
      encode_group<Stored, kFnuz, kMultiply, false>(p, group, kMultiply ? 1.0F / scales[i] : scales[i],
                                                    nan_code, codes);
    }
}

// At most Groups::kMost groups.
void quantize_some(const reference::IndexerQuant& q, std::int64_t group, const KeyRows& in,
                   std::uint8_t* codes, float* scales) {
  // Powers of two divide exactly either way.
  const bool multiply =
      (q.value_op == reference::DivisionOp::kReciprocal) != fault(Fault::kIndexerOtherDivision) || q.ue8m0;
  const std::int64_t count = in.rows * (in.n / group);
  Groups g;
  const auto run = [&](auto stored, auto fnuz) HWY_ATTR {
    using Stored = decltype(stored);
    constexpr bool kFnuz = decltype(fnuz)::value;
    find_largest<Stored>(group, in, g);
    // Lanes behind the last group.
    for (std::int64_t i = count; i % static_cast<std::int64_t>(hn::Lanes(DF())) != 0; ++i) g.largest[i] = 1;
    if (multiply) {
      find_scales<kFnuz, true>(q, count, g, scales);
      encode_rows<Stored, kFnuz, true>(q, group, in, g, scales, codes);
    } else {
      find_scales<kFnuz, false>(q, count, g, scales);
      encode_rows<Stored, kFnuz, false>(q, group, in, g, scales, codes);
    }
  };
  const auto run_dtype = [&](auto fnuz) HWY_ATTR {
    if (in.k.dtype == DType::kBF16) return run(StoredBF16(), fnuz);
    if (in.k.dtype == DType::kF16) return run(StoredF16(), fnuz);
    run(StoredF32(), fnuz);
  };
  if (q.fp8 == DType::kE4M3FNUZ) return run_dtype(std::true_type());
  run_dtype(std::false_type());
}

void quantize(const reference::IndexerQuant& q, std::int64_t group, const KeyRows& in, std::uint8_t* codes,
              float* scales) {
  const std::int64_t per_row = in.n / group;
  if (in.rows * per_row <= Groups::kMost) return quantize_some(q, group, in, codes, scales);
  for (std::int64_t row = 0; row < in.rows; ++row)
    for (std::int64_t c = 0; c < in.n; c += Groups::kMost * group) {
      const KeyRows part{in.k, in.first + row * in.stride + c, in.stride, 1,
                         std::min(Groups::kMost * group, in.n - c)};
      quantize_some(q, group, part, codes + row * in.n + c, scales + row * per_row + c / group);
    }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {
namespace {
HWY_EXPORT(quantize);
}  // namespace

QuantizeRows quantize_rows() { return MOECHECK_DISPATCH(quantize); }

}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
