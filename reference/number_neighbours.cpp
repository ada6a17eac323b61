// Where rounding changes its mind, and the limits of each format.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "reference/number_format_detail.h"

namespace moecheck::reference {
using namespace detail;

namespace {

// Lower and upper neighbour of a magnitude; e8m0 by its exponent alone.
struct Bracket {
  double lower, upper;
};
template <Format F>
Bracket bracket(double magnitude) {
  const u64 ordinal = truncated_ordinal(F, bit_cast<u64>(magnitude));
  if (ordinal > F.max_code) {  // between the largest and Inf, or Inf itself
    constexpr bool has_inf = F.inf_code != F.nan_code;
    return {has_inf && magnitude == kInf ? kInf : value_of(F, F.max_code), kInf};
  }
  const double lower = value_of(F, ordinal);
  if (lower == magnitude) return {lower, lower};
  return {lower, ordinal == F.max_code ? kInf : value_of(F, ordinal + 1)};
}

Bracket bracket_e8m0(double value) {
  const double smallest = pow2(-kBiasE8M0), largest = pow2(kBiasE8M0);
  if (value < smallest) return {0, smallest};
  if (value > largest) return {largest, kInf};
  const double lower = bit_cast<double>(bit_cast<u64>(value) & kInf64);
  return {lower, lower == value ? lower : lower == largest ? kInf : 2 * lower};
}

// A step up (away from zero) or down (towards it) among the magnitudes.
template <Format F>
double next_magnitude(double magnitude, bool up) {
  const Bracket b = bracket<F>(magnitude);
  if (b.lower != b.upper) return up ? b.upper : b.lower;
  if (b.lower == kInf) return up ? kInf : value_of(F, F.max_code);
  const u64 ordinal = truncated_ordinal(F, bit_cast<u64>(magnitude));
  if (up) return ordinal == F.max_code ? kInf : value_of(F, ordinal + 1);
  return value_of(F, ordinal - 1);  // never called for zero
}

double next_e8m0(double value, bool up) {
  const double smallest = pow2(-kBiasE8M0), largest = pow2(kBiasE8M0);
  if (!(value >= 0)) return kNaN;
  if (up) return value < smallest ? smallest : value >= largest ? kInf : 2 * bracket_e8m0(value).lower;
  if (value == 0) return kNaN;
  const Bracket b = bracket_e8m0(value);
  if (b.lower != b.upper) return b.lower;
  return value == smallest ? 0 : value / 2;
}

double next_towards(DType dtype, double value, bool up) {
  if (std::isnan(value)) return kNaN;
  if (dtype == DType::kF64) return std::nextafter(value, up ? kInf : -kInf);
  if (dtype == DType::kE8M0) return next_e8m0(value, up);
  return with_format("next_up", dtype, [&]<Format F>() {
    if (value == 0) return up ? min_subnormal_of(F) : -min_subnormal_of(F);
    const double next = next_magnitude<F>(std::fabs(value), up == (value > 0));
    return value < 0 && next != 0 ? -next : next;
  });
}

}  // namespace

Neighbours neighbours(DType dtype, double value) {
  if (std::isnan(value)) return {kNaN, kNaN, kNaN};
  if (dtype == DType::kF64) return {value, value, value};
  const double rounded = round_to(dtype, value);
  if (dtype == DType::kE8M0) {
    if (!(value > 0)) return {kNaN, kNaN, kNaN};
    const Bracket b = bracket_e8m0(value);
    return {b.lower, b.upper, std::isnan(rounded) ? kInf : rounded};
  }
  const Bracket b =
      with_format("neighbours", dtype, [&]<Format F>() { return bracket<F>(std::fabs(value)); });
  const double nearest = std::isnan(rounded) ? std::copysign(kInf, value) : rounded;
  if (std::signbit(value)) return {-b.upper, -b.lower, nearest};
  return {b.lower, b.upper, nearest};
}

double next_up(DType dtype, double value) { return next_towards(dtype, value, true); }
double next_down(DType dtype, double value) { return next_towards(dtype, value, false); }

double midpoint_distance(DType dtype, double value) {
  if (!std::isfinite(value)) return kInf;
  const double a = std::fabs(value);
  if (dtype == DType::kF64) {
    const double below = a == 0 ? DBL_TRUE_MIN : a - std::nextafter(a, 0);
    const double above = std::nextafter(a, kInf) - a;
    return std::fmin(below, above) / 2;
  }
  if (dtype == DType::kE8M0) {
    // The cells are [0.75, 1.5) * 2^k; the lowest reaches down to 0, where NaN begins; the highest ends
    // at 1.5 * 2^127.
    if (value <= 0) return a;
    const u64 code = encode_e8m0(value, Overflow::kSaturate);
    const double centre = decode_e8m0(code);
    return std::fmin(code == 0 ? a : std::fabs(a - 0.75 * centre), std::fabs(1.5 * centre - a));
  }
  return with_format("midpoint_distance", dtype, [&]<Format F>() {
    // The rounding cell of the nearest number ends at a midpoint on either side. Sums of neighbours are exact
    // in double.
    const u64 ordinal = std::min(nearest_ordinal(F, bit_cast<u64>(a)), F.max_code);
    const double centre = value_of(F, ordinal);
    const double above = std::fabs((centre + value_of(F, ordinal + 1)) / 2 - a);
    if (ordinal == 0) return above;
    return std::fmin(above, a - (value_of(F, ordinal - 1) + centre) / 2);
  });
}

double unit_roundoff(DType dtype) {
  if (dtype == DType::kF64) return 0x1p-53;
  if (dtype == DType::kE8M0) return 0.5;
  return with_format("unit_roundoff", dtype, []<Format F>() { return pow2(-F.mant_bits - 1); });
}

double max_finite(DType dtype) {
  if (dtype == DType::kF64) return DBL_MAX;
  if (dtype == DType::kE8M0) return pow2(kBiasE8M0);
  return with_format("max_finite", dtype, []<Format F>() { return value_of(F, F.max_code); });
}

double min_normal(DType dtype) {
  if (dtype == DType::kF64) return DBL_MIN;
  if (dtype == DType::kE8M0) return pow2(-kBiasE8M0);
  return with_format("min_normal", dtype, []<Format F>() { return pow2(1 - F.bias); });
}

double min_subnormal(DType dtype) {
  if (dtype == DType::kF64) return DBL_TRUE_MIN;
  if (dtype == DType::kE8M0) return pow2(-kBiasE8M0);
  return with_format("min_subnormal", dtype, []<Format F>() { return min_subnormal_of(F); });
}

bool has_infinity(DType dtype) {
  if (dtype == DType::kF64) return true;
  if (dtype == DType::kE8M0) return false;
  return with_format("has_infinity", dtype, []<Format F>() { return F.inf_code != F.nan_code; });
}

}  // namespace moecheck::reference
