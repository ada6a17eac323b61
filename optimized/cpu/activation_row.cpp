#include "optimized/cpu/activation_row.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/activation_row.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {

using reference::Activation;
using reference::ActivationOptions;
using reference::Clamp;
using reference::GateUpLayout;
using reference::Rounding;

// The order of operands keeps a NaN in v: x86's min and max return the second one.
HWY_INLINE VF at_most(VF v, VF limit) { return hn::Min(limit, v); }
HWY_INLINE VF at_least(VF v, VF limit) { return hn::Max(limit, v); }

//   silu: g / (1 + exp(-g))          swiglu_oai: g / (1 + exp(-alpha g))
// From g = 18 on the sum is 1 and the result g; below -89 the exponential is Inf and the result 0: integers
// stay integers.
HWY_INLINE VF act(VF g, float alpha) {
  const VF one = hn::Set(DF(), 1.0F);
  return hn::Div(g, hn::Add(one, exp(hn::Neg(hn::Mul(g, hn::Set(DF(), alpha))))));
}

HWY_INLINE VF gated(const ActivationOptions& o, Clamp clamp, VF g, VF u) {
  const DF d;
  const VF limit = hn::Set(d, static_cast<float>(o.limit));
  const bool oai = o.activation == Activation::kSwigluOai;
  if (clamp != Clamp::kNone) u = at_least(at_most(u, limit), hn::Neg(limit));
  if (clamp == Clamp::kBeforeSilu) g = at_most(g, limit);
  VF a = act(g, oai ? static_cast<float>(o.alpha) : fault(Fault::kSiluIsGelu) ? 1.702F : 1.0F);
  if (clamp == Clamp::kAfterSilu) a = at_most(a, limit);
  if ((o.round_silu == Rounding::kRound) != fault(Fault::kSiluRounding)) a = round_dtype(o.dtype, a);
  if (oai && !fault(Fault::kOaiUpWithoutOne)) u = hn::Add(u, hn::Set(d, 1.0F));
  a = hn::Mul(a, u);
  return o.round_product == Rounding::kRound ? round_dtype(o.dtype, a) : a;
}

Clamp clamp_of(const ActivationOptions& o) {
  if (!(static_cast<float>(o.limit) > 0)) return Clamp::kNone;
  if (!fault(Fault::kClampOnOtherSide)) return o.clamp;
  if (o.clamp == Clamp::kNone) return o.clamp;
  return o.clamp == Clamp::kBeforeSilu ? Clamp::kAfterSilu : Clamp::kBeforeSilu;
}

void activate(const ActivationRow& row, const float* h, std::int64_t intermediate, float* a) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const ActivationOptions& o = row.options;
  const Clamp clamp = clamp_of(o);
  const VF weight = hn::Set(d, row.weight);
  const bool interleaved = o.layout == GateUpLayout::kInterleaved && !fault(Fault::kInterleavedAsStacked);
  const bool up_first = (o.layout == GateUpLayout::kUpGate) != fault(Fault::kGateUpSwapped);
  for (std::int64_t i = 0; i < intermediate; i += lanes) {
    VF first, second;
    if (interleaved) {
      hn::LoadInterleaved2(d, h + 2 * i, first, second);
    } else {
      first = hn::LoadU(d, h + i);
      second = hn::LoadU(d, h + intermediate + i);
    }
    first = hn::Mul(first, weight), second = hn::Mul(second, weight);
    if (row.round_input) first = round_dtype(o.dtype, first), second = round_dtype(o.dtype, second);
    hn::Store(up_first ? gated(o, clamp, second, first) : gated(o, clamp, first, second), d, a + i);
  }
  std::fill(a + intermediate, a + padded_columns(intermediate), 0.0F);
}

// ---- fp8

// Nearest even on `kMantissa` bits, saturated. In subnormals the step is the smallest normal's; a number
// whose own step that is rounds to it by addition.
struct Fp8Format {
  int mantissa;
  float min_normal, largest;
};
Fp8Format format_of(DType dtype) {
  if (dtype == DType::kE4M3FNUZ) return {3, 0x1p-7F, 240};
  if (dtype == DType::kE5M2) return {2, 0x1p-14F, 57344};
  return {3, 0x1p-6F, 448};
}

HWY_INLINE VF round_fp8(const Fp8Format& f, VF v) {
  const DF d;
  const DU du;
  const int drop = 23 - f.mantissa;
  const VF magnitude = hn::Abs(v);
  const VF step = hn::Set(d, f.min_normal * 0x1p23F / static_cast<float>(1 << f.mantissa));
  const VU bits = float_as_bits(magnitude);
  const VU odd = hn::And(hn::ShiftRightSame(bits, drop), hn::Set(du, 1));
  const VU half = hn::Set(du, (1U << (drop - 1)) - 1), mask = hn::Set(du, ~((1U << drop) - 1));
  const VF normal = bits_as_float(hn::And(hn::Add(bits, hn::Add(odd, half)), mask));
  const VF tiny = hn::Sub(hn::Add(magnitude, step), step);
  VF r = hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, f.min_normal)), tiny, normal);
  r = hn::Min(r, hn::Set(d, f.largest));
  return hn::IfThenElse(hn::IsNaN(v), v, hn::CopySign(r, v));
}

HWY_INLINE VF load_first(const float* p, std::int64_t count) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const VF v = hn::LoadU(d, p);
  return count >= lanes ? v : hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(count)), v);
}

float group_amax(const float* x, std::int64_t n, float eps) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  VF top = hn::Set(d, fault(Fault::kQuantizeWithoutEps) ? 0 : eps);
  for (std::int64_t i = 0; i < n; i += lanes) {
    const VF loaded = load_first(x + i, n - i),
             v = fault(Fault::kQuantizeSignedAmax) ? loaded : hn::Abs(loaded);
    top = hn::Max(top, hn::IfThenElse(hn::IsNaN(v), hn::Zero(d), v));
  }
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

float power_of_two_at_least(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  if (fault(Fault::kUe8m0Floor)) return std::bit_cast<float>(bits & 0x7F800000);
  return std::bit_cast<float>((bits + 0x007FFFFF) & 0x7F800000);
}

void quantize(const reference::Fp8QuantOptions& o, const float* x, std::int64_t n, float* codes,
              float* scales) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const Fp8Format format = format_of(o.dtype);
  const bool power = o.scale_format == reference::ScaleFormat::kUE8M0;
  const bool reciprocal = o.division == reference::QuantDivision::kReciprocal;
  const VF nan = hn::Set(d, o.nan_saturates ? -format.largest : std::numeric_limits<float>::quiet_NaN());
  const std::int64_t group = fault(Fault::kQuantizeWholeRow) ? n : o.group;
  for (std::int64_t begin = 0; begin < n; begin += group) {
    const std::int64_t count = std::min(group, n - begin);
    const float amax = group_amax(x + begin, count, static_cast<float>(o.eps));
    float s = reciprocal ? amax * (1.0F / format.largest) : amax / format.largest;
    if (power && s < std::numeric_limits<float>::infinity()) s = power_of_two_at_least(s);
    const VF factor = hn::Set(d, reciprocal && !power ? format.largest / amax : s);
    for (std::int64_t i = 0; i < count; i += lanes) {
      const VF v = load_first(x + begin + i, count - i);
      const VF q = reciprocal && !power ? hn::Mul(v, factor) : hn::Div(v, factor);
      const VF code = hn::IfThenElse(hn::IsNaN(q), nan, round_fp8(format, q));
      if (count - i >= lanes)
        hn::StoreU(code, d, codes + begin + i);
      else
        hn::BlendedStore(code, hn::FirstN(d, static_cast<std::size_t>(count - i)), d, codes + begin + i);
    }
    for (std::int64_t b = begin; b < begin + count; b += o.group) scales[b / o.group] = s;
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {
HWY_EXPORT(activate);
HWY_EXPORT(quantize);
Activate activate_row() { return MOECHECK_DISPATCH(activate); }
QuantizeRow quantize_row() { return MOECHECK_DISPATCH(quantize); }
}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
