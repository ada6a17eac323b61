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
HWY_INLINE VU encode_e4m3(VF v) {
  using Format = E4M3<kFnuz>;
  const DU du;
  const VU bits = float_as_bits(v), sign_bit = hn::Set(du, 0x80000000);
  const VU exponent = hn::Max(hn::And(bits, hn::Set(du, 0x7F800000)), hn::Set(du, Format::kMinNormal));
  const VU magic = hn::Add(exponent, hn::Set(du, (20U << 23) + Format::kOffset));
  VF number = v;
  if (fault(Fault::kIndexerTruncates)) number = bits_as_float(hn::And(bits, hn::Set(du, 0xFFF00000)));
  VU sum = float_as_bits(hn::Add(number, bits_as_float(hn::OrAnd(magic, bits, sign_bit))));
  sum = hn::Add(sum, hn::ShiftRight<20>(magic));
  VU low = hn::And(sum, hn::Set(du, 0x7F));
  if (fault(Fault::kIndexerFlushesSmallCodes)) low = hn::IfThenZeroElse(hn::Lt(low, hn::Set(du, 8)), low);
  const VU code = hn::Or(low, hn::And(hn::ShiftRight<24>(bits), hn::Set(du, 0x80)));
  if (kFnuz && !fault(Fault::kIndexerMinusZeroFnuz))
    return hn::IfThenElse(hn::Eq(low, hn::Zero(du)), low, code);
  return code;
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

HWY_INLINE float scale_of(const reference::IndexerQuant& q, float amax) {
  if (fault(Fault::kIndexerScaleInBf16)) amax = MOECHECK_OPTIMIZED::round_bf16(amax);
  float f = static_cast<float>(q.divisor);
  if (fault(Fault::kIndexerOtherDivisor)) f = f == 240 ? 224 : 240;
  const float a = fault(Fault::kIndexerNoFloor) ? amax : std::max(amax, static_cast<float>(q.amax_floor));
  float s = q.scale_op == reference::DivisionOp::kReciprocal ? a * (1.0F / f) : a / f;
  if (fault(Fault::kIndexerScaleInBf16)) s = MOECHECK_OPTIMIZED::round_bf16(s);
  if (!q.ue8m0 || fault(Fault::kIndexerUe8m0Ignored)) return s;
  // The power of two above: the mantissa's carry. Inf stays.
  const std::uint32_t up = fault(Fault::kIndexerUe8m0Floor) ? 0 : 0x7FFFFF;
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(s) + up) & 0x7F800000);
}

template <class Stored, bool kFnuz, bool kMultiply, bool kFinite>
HWY_INLINE void encode_group(const typename Stored::Lane* k, std::int64_t n, float scale, VU nan_code,
                             std::uint8_t* codes) {
  const DF d;
  const DU du;
  const DU8 d8;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const VF by = hn::Set(d, kMultiply ? 1.0F / scale : scale);
  const auto code_of = [&](VF v) HWY_ATTR {
    v = kMultiply ? hn::Mul(v, by) : hn::Div(v, by);
    return kFinite ? encode_e4m3<kFnuz>(v) : encode_e4m3_any<kFnuz>(v, nan_code);
  };
  std::int64_t i = 0;
  if constexpr (std::is_same_v<Stored, StoredBF16>) {
    // Pairs: the numbers of a 32-bit word are its upper half and what is below, and so are their codes of the 16-bit word.
    for (; i + 2 * lanes <= n; i += 2 * lanes) {
      const VU words = hn::BitCast(du, hn::LoadU(hn::ScalableTag<std::uint16_t>(), k + i));
      const VU even = code_of(bits_as_float(hn::ShiftLeft<16>(words)));
      const VU odd = code_of(bits_as_float(hn::And(words, hn::Set(du, 0xFFFF0000))));
      const DU16 d16;
      std::uint16_t* to = reinterpret_cast<std::uint16_t*>(codes + i);
      hn::StoreU(hn::TruncateTo(d16, hn::Or(even, hn::ShiftLeft<8>(odd))), d16, to);
    }
  }
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::TruncateTo(d8, code_of(Stored::load(k + i))), d8, codes + i);
  if (i == n) return;
  std::uint8_t tail[HWY_MAX_BYTES / sizeof(float)];
  hn::StoreU(hn::TruncateTo(d8, code_of(load_tail<Stored>(k + i, static_cast<std::size_t>(n - i)))), d8,
             tail);
  std::memcpy(codes + i, tail, static_cast<std::size_t>(n - i));
}

// Whether all of a group's codes are within the format: the largest quotient is F, or a rounding error more. Groups with NaN or Inf
// are not, and an amax of a part of the group, or of rounded numbers, is no proof.
template <bool kFnuz>
HWY_INLINE bool is_within(float largest, float scale) {
  return largest < 1.01F * E4M3<kFnuz>::kMax * scale;
}

template <class Stored, bool kFnuz>
HWY_INLINE void scale_rows(const reference::IndexerQuant& q, std::int64_t group, const KeyRows& in,
                           float* HWY_RESTRICT scales, bool* HWY_RESTRICT within) {
  const auto* k = in.k.as<typename Stored::Lane>() + in.first;
  // Kernels wired to 128 channels look at those whatever the group is.
  const bool wired = fault(Fault::kIndexerAmaxOf128);
  for (std::int64_t row = 0; row < in.rows; ++row)
    for (std::int64_t c = 0; c < in.n; c += group) {
      const std::int64_t from = wired ? c / 128 * 128 : c,
                         seen = wired ? std::min<std::int64_t>(128, in.n - from) : group;
      const auto* p = k + row * in.stride + from;
      const float largest = number_of(Stored(), largest_bits<Stored>(p, seen));
      const bool plain = std::isfinite(largest) && !fault(Fault::kIndexerSignedAmax);
      *scales = scale_of(q, plain ? largest : amax_of<Stored>(p, seen));
      *within++ = is_within<kFnuz>(largest, *scales++) && plain && !wired;
    }
}

template <class Stored, bool kFnuz, bool kMultiply>
HWY_INLINE void encode_rows(const reference::IndexerQuant& q, std::int64_t group, const KeyRows& in,
                            const float* HWY_RESTRICT scales, const bool* HWY_RESTRICT within,
                            std::uint8_t* HWY_RESTRICT codes) {
  const bool clamped = q.non_finite == reference::NonFiniteKeys::kClamped;
  const VU nan_code = hn::Set(DU(), clamped ? (kFnuz ? 0xFFU : 0xFEU) : (kFnuz ? 0x80U : 0x7FU));
  const auto* k = in.k.as<typename Stored::Lane>() + in.first;
  for (std::int64_t row = 0; row < in.rows; ++row)
    for (std::int64_t c = 0; c < in.n; c += group, codes += group, ++scales) {
      const auto* p = k + row * in.stride + c;
      if (*within++)
        encode_group<Stored, kFnuz, kMultiply, true>(p, group, *scales, nan_code, codes);
      else
        encode_group<Stored, kFnuz, kMultiply, false>(p, group, *scales, nan_code, codes);
    }
}

void quantize(const reference::IndexerQuant& q, std::int64_t group, const KeyRows& in, std::uint8_t* codes,
              float* scales) {
  constexpr std::int64_t kGroups = 64;  // at once
  const std::int64_t per_row = in.n / group;
  if (in.rows > 1 && in.rows * per_row > kGroups) {
    KeyRows one = in;
    one.rows = 1;
    for (std::int64_t row = 0; row < in.rows; ++row, one.first += in.stride)
      quantize(q, group, one, codes + row * in.n, scales + row * per_row);
    return;
  }
  if (per_row > kGroups) {
    KeyRows part = in;
    for (std::int64_t c = 0; c < in.n; c += part.n) {
      part.first = in.first + c, part.n = std::min(kGroups * group, in.n - c);
      quantize(q, group, part, codes + c, scales + c / group);
    }
    return;
  }
  bool within[kGroups];
  // Powers of two divide exactly either way.
  const bool multiply =
      (q.value_op == reference::DivisionOp::kReciprocal) != fault(Fault::kIndexerOtherDivision) || q.ue8m0;
  const auto run = [&](auto stored, auto fnuz) HWY_ATTR {
    using Stored = decltype(stored);
    constexpr bool kFnuz = decltype(fnuz)::value;
    scale_rows<Stored, kFnuz>(q, group, in, scales, within);
    if (multiply)
      encode_rows<Stored, kFnuz, true>(q, group, in, scales, within, codes);
    else
      encode_rows<Stored, kFnuz, false>(q, group, in, scales, within, codes);
  };
  const auto run_dtype = [&](auto fnuz) HWY_ATTR {
    if (in.k.dtype == DType::kBF16) return run(StoredBF16(), fnuz);
    if (in.k.dtype == DType::kF16) return run(StoredF16(), fnuz);
    run(StoredF32(), fnuz);
  };
  if (q.fp8 == DType::kE4M3FNUZ) return run_dtype(std::true_type());
  run_dtype(std::false_type());
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
