// Vector functions that every operator shares. Included once per target, after hwy/highway.h.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "optimized/cpu/rounding.h"

#if defined(MOECHECK_VECTOR_MATH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MOECHECK_VECTOR_MATH_INL
#undef MOECHECK_VECTOR_MATH_INL
#else
#define MOECHECK_VECTOR_MATH_INL
#endif

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DI = hn::ScalableTag<std::int32_t>;
using DU = hn::ScalableTag<std::uint32_t>;
using DU16 = hn::Rebind<std::uint16_t, DF>;
using DU8 = hn::Rebind<std::uint8_t, DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;

HWY_INLINE VF bits_as_float(VU v) { return hn::BitCast(DF(), v); }
HWY_INLINE VU float_as_bits(VF v) { return hn::BitCast(DU(), v); }

//   exp(x) = 2^n exp(r),  n = round(x / ln 2),  |r| <= ln 2 / 2,  exp(r) = 1 + r + r^2 P(r)
// ln 2 in two parts: the first has 9 bits, so that n * part is exact without a fused multiply-add too. 2^n in
// two factors, so that results down to the smallest subnormal, and Inf, come out of the last product. Within
// 2 ulp; NaN stays NaN.
HWY_INLINE VF exp(VF x) {
  const DF d;
  const DI di;
  const VF limited = hn::Min(hn::Max(x, hn::Set(d, -104.5F)), hn::Set(d, 89.0F));
  const VF n = hn::Round(hn::Mul(limited, hn::Set(d, 1.44269504F)));
  VF r = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), limited);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440E-4F), r);
  VF p = hn::Set(d, 1.9875691500E-4F);
  for (const float c :
       {1.3981999507E-3F, 8.3334519073E-3F, 4.1665795894E-2F, 1.6666665459E-1F, 5.0000001201E-1F})
    p = hn::MulAdd(p, r, hn::Set(d, c));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0F));
  const VI whole = hn::ConvertTo(di, n), half = hn::ShiftRight<1>(whole);
  const auto power = [&](VI k) { return hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(k, hn::Set(di, 127)))); };
  const VF result = hn::Mul(hn::Mul(p, power(half)), power(hn::Sub(whole, half)));
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

HWY_INLINE VF sigmoid(VF x) {
  const VF one = hn::Set(DF(), 1.0F);
  return hn::Div(one, hn::Add(one, exp(hn::Neg(x))));
}

//   log1p(t) = 2 atanh(s),  s = t / (2 + t)
// For t in [0, 1]: s <= 1/3, and the series is short. Accurate relative to the result near 0 too.
HWY_INLINE VF log1p_unit(VF t) {
  const DF d;
  const VF s = hn::Div(t, hn::Add(t, hn::Set(d, 2.0F))), q = hn::Mul(s, s);
  VF p = hn::Set(d, 1.0F / 17);
  for (const float c : {1.0F / 15, 1.0F / 13, 1.0F / 11, 1.0F / 9, 1.0F / 7, 1.0F / 5, 1.0F / 3})
    p = hn::MulAdd(p, q, hn::Set(d, c));
  const VF twice = hn::Add(s, s);
  return hn::MulAdd(hn::Mul(p, q), twice, twice);
}

//   softplus(x) = log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))
HWY_INLINE VF softplus(VF x) {
  return hn::Add(hn::Max(x, hn::Zero(DF())), log1p_unit(exp(hn::Neg(hn::Abs(x)))));
}

HWY_INLINE VF round_bf16(VF v) {
  const DU du;
  const VU bits = float_as_bits(v), odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const VU up = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
  return hn::IfThenElse(hn::IsNaN(v), v, bits_as_float(hn::And(up, hn::Set(du, 0xFFFF0000))));
}

// As the scalar round_f16: in place when normal, through 0.5 below 2^-14, Inf from 65520 on.
HWY_INLINE VF round_f16(VF v) {
  const DF d;
  const DU du;
  const VF magnitude = hn::Abs(v), half = hn::Set(d, 0.5F);
  const VU bits = float_as_bits(magnitude), odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(du, 1));
  const VU up = hn::And(hn::Add(bits, hn::Add(odd, hn::Set(du, 0xFFF))), hn::Set(du, 0xFFFFE000));
  VF r = hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0x1p-14F)), hn::Sub(hn::Add(magnitude, half), half),
                        bits_as_float(up));
  r = hn::IfThenElse(hn::Ge(magnitude, hn::Set(d, 65520.0F)), bits_as_float(hn::Set(du, 0x7F800000)), r);
  return hn::IfThenElse(hn::IsNaN(v), v, hn::CopySign(r, v));
}

HWY_INLINE VF round_dtype(DType dtype, VF v) {
  if (dtype == DType::kBF16) return round_bf16(v);
  return dtype == DType::kF16 ? round_f16(v) : v;
}

HWY_INLINE VF bf16_to_float(VU bits) { return bits_as_float(hn::ShiftLeft<16>(bits)); }

// The fields move to where fp32 has them; 2^112 corrects the exponent, and makes subnormals normal. Exact.
HWY_INLINE VF f16_to_float(VU bits) {
  const DU du;
  const VU magnitude = hn::And(bits, hn::Set(du, 0x7FFF)), shifted = hn::ShiftLeft<13>(magnitude);
  const VU finite = float_as_bits(hn::Mul(bits_as_float(shifted), hn::Set(DF(), 0x1p112F)));
  const auto special = hn::Gt(magnitude, hn::Set(du, 0x7BFF));
  const VU r = hn::IfThenElse(special, hn::Or(shifted, hn::Set(du, 0x7F800000)), finite);
  return bits_as_float(hn::Or(r, hn::ShiftLeft<16>(hn::Xor(bits, magnitude))));
}

// e4m3fn (fnuz == false) and e4m3fnuz, whose exponent is one lower and whose only NaN is the code 0x80.
template <bool kFnuz>
HWY_INLINE VF e4m3_to_float(VU bits) {
  const DU du;
  const VU magnitude = hn::And(bits, hn::Set(du, 0x7F)), sign = hn::ShiftLeft<24>(hn::Xor(bits, magnitude));
  const VF v =
      hn::Mul(bits_as_float(hn::ShiftLeft<20>(magnitude)), hn::Set(DF(), kFnuz ? 0x1p119F : 0x1p120F));
  const auto nan = kFnuz ? hn::Eq(bits, hn::Set(du, 0x80)) : hn::Eq(magnitude, hn::Set(du, 0x7F));
  return bits_as_float(hn::Or(hn::IfThenElse(nan, hn::Set(du, 0x7FC00000), float_as_bits(v)), sign));
}

// How one lane is stored, as a type: load(p) reads a full vector from element p on.
struct StoredF32 {
  using Lane = float;
  static HWY_INLINE VF load(const Lane* p) { return hn::LoadU(DF(), p); }
};
struct StoredBF16 {
  using Lane = std::uint16_t;
  static HWY_INLINE VF load(const Lane* p) {
    return bf16_to_float(hn::PromoteTo(DU(), hn::LoadU(DU16(), p)));
  }
};
struct StoredF16 {
  using Lane = std::uint16_t;
  static HWY_INLINE VF load(const Lane* p) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
    const hn::Rebind<hwy::float16_t, DF> dh;
    return hn::PromoteTo(DF(), hn::BitCast(dh, hn::LoadU(DU16(), p)));
#else
    return f16_to_float(hn::PromoteTo(DU(), hn::LoadU(DU16(), p)));
#endif
  }
};
template <bool kFnuz>
struct StoredE4M3 {
  using Lane = std::uint8_t;
  static HWY_INLINE VF load(const Lane* p) {
    return e4m3_to_float<kFnuz>(hn::PromoteTo(DU(), hn::LoadU(DU8(), p)));
  }
};

// Calls fn with the Stored type of `dtype`; f32, bf16, f16 and the two e4m3 formats.
template <class Fn>
HWY_INLINE void with_stored(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::kBF16:
      return fn(StoredBF16());
    case DType::kF16:
      return fn(StoredF16());
    case DType::kE4M3FN:
      return fn(StoredE4M3<false>());
    case DType::kE4M3FNUZ:
      return fn(StoredE4M3<true>());
    default:
      return fn(StoredF32());
  }
}

// The first `count` < Lanes elements, zeros behind them: nothing beyond is read.
template <class Stored>
HWY_INLINE VF load_tail(const typename Stored::Lane* p, std::size_t count) {
  typename Stored::Lane lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(lanes, p, count * sizeof(lanes[0]));
  return Stored::load(lanes);
}

// n stored numbers from element `first` on -> fp32.
inline void load_floats(ConstView view, std::int64_t first, std::int64_t n, float* HWY_RESTRICT out) {
  with_stored(view.dtype, [&](auto stored) {
    using Stored = decltype(stored);
    const auto* p = view.as<typename Stored::Lane>() + first;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(DF()));
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) hn::StoreU(Stored::load(p + i), DF(), out + i);
    if (i == n) return;
    float tail[HWY_MAX_BYTES / sizeof(float)];
    hn::StoreU(load_tail<Stored>(p + i, static_cast<std::size_t>(n - i)), DF(), tail);
    std::memcpy(out + i, tail, static_cast<std::size_t>(n - i) * sizeof(float));
  });
}

// Bits of bf16 and f16 in the low half of each lane; NaN is quiet. Numbers are rounded here.
HWY_INLINE VU float_to_bf16(VF v) {
  const VU nan = hn::Or(hn::ShiftRight<16>(float_as_bits(v)), hn::Set(DU(), 0x40));
  const VU number = hn::ShiftRight<16>(float_as_bits(round_bf16(v)));
  return hn::IfThenElse(hn::RebindMask(DU(), hn::IsNaN(v)), nan, number);
}
HWY_INLINE VU float_to_f16(VF v) {
  const DF d;
  const DU du;
  const VF r = hn::Abs(round_f16(v));
  const VU sign = hn::And(hn::ShiftRight<16>(float_as_bits(v)), hn::Set(du, 0x8000));
  const VU normal = hn::Sub(hn::ShiftRight<13>(float_as_bits(r)), hn::Set(du, 112 << 10));
  const VU tiny = hn::BitCast(du, hn::ConvertTo(DI(), hn::Mul(r, hn::Set(d, 0x1p24F))));
  VU bits = hn::IfThenElse(hn::RebindMask(du, hn::Lt(r, hn::Set(d, 0x1p-14F))), tiny, normal);
  bits = hn::IfThenElse(hn::RebindMask(du, hn::IsInf(r)), hn::Set(du, 0x7C00), bits);
  bits = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), hn::Set(du, 0x7E00), bits);
  return hn::Or(bits, sign);
}

// n fp32 numbers -> elements from `first` on, rounded to the view's dtype: f32, bf16 or f16.
inline void store_floats(const float* HWY_RESTRICT in, std::int64_t n, View view, std::int64_t first) {
  if (view.dtype == DType::kF32) {
    std::memcpy(view.as<float>() + first, in, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  std::uint16_t* out = view.as<std::uint16_t>() + first;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(DF()));
  for (std::int64_t i = 0; i < n; i += lanes) {
    const auto count = static_cast<std::size_t>(n - i < lanes ? n - i : lanes);
    const VF v = n - i < lanes ? load_tail<StoredF32>(in + i, count) : hn::LoadU(DF(), in + i);
    const VU bits = view.dtype == DType::kBF16 ? float_to_bf16(v) : float_to_f16(v);
    std::uint16_t narrow[HWY_MAX_BYTES / sizeof(float)];
    hn::StoreU(hn::TruncateTo(DU16(), bits), DU16(), narrow);
    std::memcpy(out + i, narrow, count * sizeof(narrow[0]));
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
