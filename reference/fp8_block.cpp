#include "reference/fp8_block.h"

#include <algorithm>
#include <cmath>

namespace moecheck::reference {
namespace {

constexpr double kAnyUlps = 3;  // a reciprocal, a product and an approximate division

double fp32(double v) { return static_cast<double>(static_cast<float>(v)); }
double power_of_two_at_least(double v) { return decode(DType::kE8M0, encode_e8m0_ceil(v)); }

// max |x_i| over one group, at least eps; NaN is ignored (fmaxf). Exact data have an exact maximum: no rounding happens here.
Bounded group_amax(const Bounded* x, std::int64_t n, double eps) {
  double value = 0, lower = 0, upper = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double magnitude = std::fabs(x[i].value);
    value = std::fmax(value, magnitude);
    lower = std::fmax(lower, magnitude - x[i].proven);
    upper = std::fmax(upper, magnitude + x[i].proven);
  }
  value = std::fmax(value, eps), lower = std::fmax(lower, eps), upper = std::fmax(upper, eps);
  if (!std::isfinite(value) || upper == lower) return Bounded::exact(value);
  double sigma = 0;  // of whichever element may be the largest
  for (std::int64_t i = 0; i < n; ++i)
    if (std::fabs(x[i].value) + x[i].proven >= lower) sigma = std::fmax(sigma, x[i].sigma);
  return {value, sigma, std::fmax(upper - value, value - lower)};
}

struct GroupScale {
  Bounded scale;     // s
  Bounded inverse;   // 448 / amax, kReciprocal with fp32 scales only
  double other = 0;  // UE8M0: the other power of two that s may be; 0 when there is none
};

//   kDivide: s = amax / 448      kReciprocal: s = amax * fp32(1 / 448), and codes are x * (448 / amax)
GroupScale group_scale(const Bounded& amax, const Fp8QuantOptions& options) {
  const double largest = max_finite(options.dtype);
  const bool reciprocal = options.division == QuantDivision::kReciprocal,
             any = options.division == QuantDivision::kAny;
  GroupScale group;
  if (amax.is_exact() && !any) {
    const double s = reciprocal ? fp32(amax.value * fp32(1 / largest)) : fp32(amax.value / largest);
    group.scale = Bounded::exact(s);
    group.inverse = Bounded::exact(fp32(largest / amax.value));
  } else {
    group.scale = rounded(amax / Bounded::exact(largest), any ? kAnyUlps - 1 : 1);
    group.inverse = Bounded::exact(largest) / amax;
  }
  if (options.scale_format == ScaleFormat::kF32 || !std::isfinite(group.scale.value)) return group;
  const double s = power_of_two_at_least(group.scale.value);
  const double low = power_of_two_at_least(group.scale.value - group.scale.proven);
  const double high = power_of_two_at_least(group.scale.value + group.scale.proven);
  if (low != s) group.other = low;
  if (high != s) group.other = high;
  group.scale = Bounded::exact(s);
  return group;
}

Bounded code_of(const Bounded& x, const GroupScale& group, const Fp8QuantOptions& options) {
  if (std::isnan(x.value))
    return Bounded::exact(options.nan_saturates ? -max_finite(options.dtype) : x.value);
  const bool any = options.division == QuantDivision::kAny,
             power = options.scale_format == ScaleFormat::kUE8M0;
  const bool reciprocal = options.division == QuantDivision::kReciprocal && !power;
  Bounded q;
  if (x.is_exact() && group.scale.is_exact() && group.inverse.is_exact() && !any) {
    q = Bounded::exact(reciprocal ? fp32(x.value * group.inverse.value) : fp32(x.value / group.scale.value));
  } else if (power) {
    q = x;
    q.value /= group.scale.value, q.sigma /= group.scale.value, q.proven /= group.scale.value;
  } else {
    q = reciprocal ? x * group.inverse : x / group.scale;
    if (any) q = rounded(q, kAnyUlps);
  }
  if (std::isnan(q.value))
    return Bounded::exact(options.nan_saturates ? -max_finite(options.dtype) : q.value);
  return round_to(options.dtype, q, Rounding::kRound, Overflow::kSaturate);
}

// The code under the other power of two, in units of the scale that was taken: both are honest.
Bounded widened(Bounded code, const Bounded& x, const GroupScale& group, const Fp8QuantOptions& options) {
  GroupScale alternative = group;
  alternative.scale = Bounded::exact(group.other);
  const Bounded other = code_of(x, alternative, options);
  const double ratio = group.other / group.scale.value;
  const double apart = std::fabs(other.value * ratio - code.value);
  code.proven = std::fmax(code.proven, apart + other.proven * ratio);
  code.sigma = std::fmax(code.sigma, apart + other.sigma * ratio);
  return code;
}

}  // namespace

std::string_view name(QuantDivision division) {
  constexpr std::string_view names[] = {"divide", "reciprocal", "any"};
  return names[static_cast<std::size_t>(division)];
}

std::string_view name(ScaleFormat format) { return format == ScaleFormat::kF32 ? "f32" : "ue8m0"; }

void quantize_fp8(const Bounded* x, std::int64_t n, const Fp8QuantOptions& options, QuantizedRow& out) {
  const double eps = fp32(options.eps);
  out.codes.resize(static_cast<std::size_t>(n));
  out.scales.clear();
  out.exact = true;
  for (std::int64_t begin = 0; begin < n; begin += options.group) {
    const std::int64_t end = std::min(n, begin + options.group);
    const GroupScale group = group_scale(group_amax(x + begin, end - begin, eps), options);
    out.scales.push_back(group.scale);
    for (std::int64_t i = begin; i < end; ++i) {
      Bounded code = code_of(x[i], group, options);
      if (group.other > 0) code = widened(code, x[i], group, options);
      out.exact = out.exact && code.is_exact();
      out.codes[static_cast<std::size_t>(i)] = code;
    }
  }
}

}  // namespace moecheck::reference
