#include "optimized/cpu/mla_prepare_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/mla_prepare_rows.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {

void rope_row(const float* x, const float* partner, const float* cos, const float* sin, std::int64_t n,
              DType products, DType result, float* out) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t i = 0; i < n; i += lanes) {
    const VF a = hn::Load(d, x + i), b = hn::Load(d, partner + i), c = hn::Load(d, cos + i),
             s = hn::Load(d, sin + i);
    const VF crossed = round_dtype(products, hn::Mul(b, s));
    const VF y = products == DType::kF32 ? hn::MulAdd(a, c, crossed)
                                         : hn::Add(round_dtype(products, hn::Mul(a, c)), crossed);
    hn::Store(round_dtype(result, y), d, out + i);
  }
}

// Codes of e4m3fn, or of e4m3fnuz, whose exponents are one lower, with no -0 and one NaN. Nearest even: among normal numbers
// by a carry into the exponent, below them by rounding multiples of the smallest number.
template <bool kFnuz>
HWY_INLINE VU float_to_e4m3(VF v, bool saturate) {
  const DF d;
  const DU du;
  const VU bits = float_as_bits(v), magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFF));
  const VF a = bits_as_float(magnitude);
  const VU odd = hn::And(hn::ShiftRight<20>(magnitude), hn::Set(du, 1));
  const VU carried = hn::ShiftRight<20>(hn::Add(magnitude, hn::Add(odd, hn::Set(du, 0x7FFFF))));
  const VU normal = hn::Sub(carried, hn::Set(du, (kFnuz ? 119u : 120u) << 3));
  const auto is_tiny = hn::Lt(a, hn::Set(d, kFnuz ? 0x1p-7F : 0x1p-6F));
  const VF steps = hn::Mul(hn::IfThenElseZero(is_tiny, a), hn::Set(d, kFnuz ? 0x1p10F : 0x1p9F));
  const VU tiny = hn::BitCast(du, hn::ConvertTo(DI(), hn::Round(steps)));
  const VU largest = hn::Set(du, kFnuz ? 0x7F : 0x7E), nan = hn::Set(du, kFnuz ? 0x80 : 0x7F);
  const VU code = hn::IfThenElse(hn::RebindMask(du, is_tiny), tiny, normal);
  const VU sign = hn::And(hn::ShiftRight<24>(bits), hn::Set(du, 0x80));
  VU r = hn::Or(hn::IfThenElse(hn::Gt(code, largest), saturate ? largest : nan, code), sign);
  if (kFnuz) {
    r = hn::IfThenElse(hn::Eq(code, hn::Zero(du)), hn::Zero(du), r);
    if (!saturate) r = hn::IfThenElse(hn::Gt(code, largest), nan, r);
  }
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), nan, r);
}

HWY_INLINE VF apply_scale(const CastPlan& plan, VF v) {
  const VF factor = hn::Set(DF(), plan.factor);
  if (plan.scale == CastPlan::Scale::kMultiply) return hn::Mul(v, factor);
  return plan.scale == CastPlan::Scale::kDivide ? hn::Div(v, factor) : v;
}

// Encode(v) gives the bits of each lane.
template <class Lane, class Encode>
HWY_INLINE void cast_with(const float* in, std::int64_t n, const CastPlan& plan, void* out, Encode encode) {
  const DF d;
  const hn::Rebind<Lane, DF> narrow;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto* to = static_cast<Lane*>(out);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::TruncateTo(narrow, encode(apply_scale(plan, hn::Load(d, in + i)))), narrow, to + i);
  if (i == n) return;
  Lane rest[HWY_MAX_BYTES / sizeof(float)];
  hn::StoreU(hn::TruncateTo(narrow, encode(apply_scale(plan, hn::Load(d, in + i)))), narrow, rest);
  std::memcpy(to + i, rest, static_cast<std::size_t>(n - i) * sizeof(Lane));
}

void cast_row(const float* in, std::int64_t n, const CastPlan& plan, void* out) {
  switch (plan.dtype) {
    case DType::kE4M3FN:
      return cast_with<std::uint8_t>(in, n, plan, out,
                                     [&](VF v) { return float_to_e4m3<false>(v, plan.saturate); });
    case DType::kE4M3FNUZ:
      return cast_with<std::uint8_t>(in, n, plan, out,
                                     [&](VF v) { return float_to_e4m3<true>(v, plan.saturate); });
    case DType::kBF16:
      return cast_with<std::uint16_t>(in, n, plan, out, [](VF v) { return float_to_bf16(v); });
    default:
      return cast_with<std::uint16_t>(in, n, plan, out, [](VF v) { return float_to_f16(v); });
  }
}

void load_row_of(ConstView view, std::int64_t first, std::int64_t n, float* out) {
  load_floats(view, first, n, out);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {
namespace {
HWY_EXPORT(rope_row);
HWY_EXPORT(cast_row);
HWY_EXPORT(load_row_of);
}  // namespace

RopeFloats rope_floats() { return MOECHECK_DISPATCH(rope_row); }
CastFloats cast_floats() { return MOECHECK_DISPATCH(cast_row); }
LoadMlaFloats load_mla_floats() { return MOECHECK_DISPATCH(load_row_of); }

}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
