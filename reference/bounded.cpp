#include "reference/bounded.h"

#include <algorithm>
#include <cfloat>
#include <limits>

namespace moecheck::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kMax32 = FLT_MAX;
constexpr double kRoot3 =
    1.7320508075688772;  // a uniform error of at most e has standard deviation e / sqrt(3)

// One ulp of a number is between u and 2u of it, so k ulps are at most 2k u.
constexpr double kExpError = 4 * 2 * kU32;  // exp within 4 ulp ...
constexpr double kExpArgument =
    1.25 * kU32;  // ... of x log2(e): the product rounds by u, fp32's log2(e) is off by 0.22 u
constexpr double kExpLargest = 128;  // exp(+-128) is Inf or 0 in fp32: its argument's error no longer matters
constexpr double kDivideUlps = 3 * 2;  // in u: a / b, a * rcp(b), __fdividef
constexpr double kSqrtUlps = 3 * 2;    // in u: sqrt, sqrt.approx, x * rsqrt(x)
constexpr double kLogError = 4 * 2 * kU32;
constexpr double kOwnFloor = 4 * kTiny32;  // the same among subnormals
// A sixth of how far 6 sigma reach, and a little: the end of a clamp or of a sigmoid is a fact, and roundings follow it.
constexpr double kSixth = (1 + 0x1p-10) / kSuspectSigmas;
constexpr double kSecondOrder = 1 + 0x1p-10;  // products of the relative errors above, each under 2^-14

double square(double x) { return x * x; }
bool fits_fp32(double x) { return static_cast<double>(static_cast<float>(x)) == x; }

// The last step of every operation: nothing is promised of a value that may not be finite in fp32; NaN is not a bound;
// noise cannot spread wider than its bound.
Bounded settled(double value, double sigma, double proven) {
  const double magnitude = std::fabs(value);
  if (!(magnitude + proven <= kMax32)) proven = kInf;
  if (!(magnitude + kSuspectSigmas * sigma <= kMax32)) sigma = kInf;
  return {value, std::fmin(sigma, proven), proven};
}

// Anything under 2^-126 may be 0 instead, at the input of an operation or at its output. The honest numbers are then the
// interval and 0.
Bounded flushed(Bounded b) {
  const double magnitude = std::fabs(b.value);
  if (magnitude - b.proven < kFlushed32) b.proven = std::fmax(b.proven, magnitude);
  if (magnitude - kSuspectSigmas * b.sigma < kFlushed32)
    b.sigma = std::fmax(b.sigma, std::fmin(magnitude, kFlushed32));
  return b;
}

Bounded finished(double value, double sigma, double proven) {
  const Bounded f = flushed({value, sigma, proven});
  return settled(f.value, f.sigma, f.proven);
}

// A result that was computed with `relative` error, `sigma_relative` of it as noise, on top of what it had.
Bounded with_relative_error(const Bounded& b, double relative, double sigma_relative) {
  const double high = std::fabs(b.value) + b.proven;
  // Among subnormals steps no longer shrink.
  const double floor = high == 0 ? 0 : relative / kU32 * kTiny32 / 2;
  const double proven = b.proven + std::fmax(relative * high, floor);
  const double sigma = std::sqrt(square(b.sigma) + square(sigma_relative * b.value));
  return finished(b.value, sigma, proven);
}

Bounded once_rounded(const Bounded& b) { return with_relative_error(b, kU32, kU32 / kRoot3); }

double sigmoid_of(double x) {
  if (x >= 0) return 1 / (1 + std::exp(-x));
  const double e = std::exp(x);
  return e / (1 + e);
}
double silu_of(double x) { return x * sigmoid_of(x); }
double softplus_of(double x) { return x > 40 ? x : std::log1p(std::exp(x)); }

// How far f moves when its argument moves by `bound`, for a monotonic f.
template <class F>
double spread(F f, double x, double bound) {
  const double y = f(x);
  return std::fmax(std::fabs(f(x + bound) - y), std::fabs(f(x - bound) - y));
}

double exp_error(double x) { return kExpError + kExpArgument * std::fmin(std::fabs(x), kExpLargest); }

bool usable(const Bounded& x) { return std::isfinite(x.value) && std::isfinite(x.proven); }

}  // namespace

Bounded rounded(Bounded b, double ulps) {
  const double relative = ulps * kU32 * (1 + ulps * 2 * kU32);  // (1 + u)^ulps - 1
  return with_relative_error(b, relative, ulps > 1 ? relative : kU32 / kRoot3 * ulps);
}

Bounded operator+(const Bounded& a_in, const Bounded& b_in) {
  const Bounded a = flushed(a_in), b = flushed(b_in);
  const double value = a.value + b.value;
  const Bounded inner{value, std::sqrt(square(a.sigma) + square(b.sigma)), a.proven + b.proven};
  if (inner.proven == 0 && fits_fp32(value)) {
    const double from_b = value - a.value;  // Knuth's two-sum: what the double addition lost
    if ((a.value - (value - from_b)) + (b.value - from_b) == 0) return finished(value, 0, 0);
  }
  return once_rounded(inner);
}

Bounded operator-(const Bounded& a, const Bounded& b) { return a + negate(b); }

// |(a + da)(b + db) - a b| <= |a| db + |b| da + da db
Bounded operator*(const Bounded& a_in, const Bounded& b_in) {
  const Bounded a = flushed(a_in), b = flushed(b_in);
  const double value = a.value * b.value;
  const double ma = std::fabs(a.value), mb = std::fabs(b.value);
  const Bounded inner{value,
                      std::sqrt(square(ma * b.sigma) + square(mb * a.sigma) + square(a.sigma * b.sigma)),
                      ma * b.proven + mb * a.proven + a.proven * b.proven};
  // Products of fp32 numbers are exact in double, so what fits was not rounded.
  if (inner.proven == 0 && fits_fp32(value) && fits_fp32(a.value) && fits_fp32(b.value))
    return finished(value, 0, 0);
  return once_rounded(inner);
}

// |(a + da) / (b + db) - a / b| <= (da + |a / b| db) / (|b| - db)
Bounded operator/(const Bounded& a_in, const Bounded& b_in) {
  const Bounded a = flushed(a_in), b = flushed(b_in);
  const double value = a.value / b.value;
  const double mb = std::fabs(b.value), mv = std::fabs(value);
  if (!(mb > b.proven) || !usable(b)) return settled(value, kInf, kInf);
  if (a.value == 0 && a.proven == 0) return Bounded::exact(value);
  Bounded inner{value, std::sqrt(square(a.sigma) + square(mv * b.sigma)) / mb,
                (a.proven + mv * b.proven) / (mb - b.proven)};
  inner = with_relative_error(inner, kDivideUlps * kU32 * kSecondOrder, kDivideUlps * kU32);
  if (mb + b.proven >= 1 / kFlushed32 * (1 - 0x1p-20)) {  // rcp(b) flushes, or __fdividef answers 0
    inner.proven = std::fmax(inner.proven, mv);
    inner.sigma = std::fmax(inner.sigma, mv);
  }
  return settled(inner.value, inner.sigma, inner.proven);
}

Bounded sqrt(const Bounded& a_in) {
  const Bounded a = flushed(a_in);
  const double value = std::sqrt(a.value);
  if (!(a.value >= 0)) return settled(value, kInf, kInf);
  // The square root bends most at the lower end.
  const auto below = [&](double bound) { return value - std::sqrt(std::fmax(a.value - bound, 0)); };
  const auto above = [&](double bound) { return std::sqrt(a.value + bound) - value; };
  const double six = kSuspectSigmas * a.sigma;
  const Bounded inner{value, std::fmax(below(six), above(six)) * kSixth,
                      std::fmax(below(a.proven), above(a.proven))};
  return with_relative_error(inner, kSqrtUlps * kU32 * kSecondOrder, kSqrtUlps * kU32);
}

Bounded scaled_exact(const Bounded& a_in, double power_of_two) {
  const Bounded a = flushed(a_in);
  const double factor = std::fabs(power_of_two);
  const double value = a.value * power_of_two, proven = a.proven * factor;
  // The one place where a power of two rounds is among subnormals.
  const bool subnormal = value != 0 && std::fabs(value) - proven < kFlushed32;
  return finished(value, a.sigma * factor, proven + (subnormal ? kTiny32 / 2 : 0));
}

Bounded negate(const Bounded& a) { return {-a.value, a.sigma, a.proven}; }

namespace {

// A clamp: the ends of both intervals are clamped too.
template <class Clamp>
Bounded clamped(const Bounded& a_in, Clamp clamp) {
  const Bounded a = flushed(a_in);
  const double value = clamp(a.value);
  // Of a number without a bound not even that it is a number is known: some clamps pass NaN and some do not.
  if (std::isnan(a.value) || a.proven == kInf) return settled(value, kInf, kInf);
  const double six = kSuspectSigmas * a.sigma;
  return settled(value, spread(clamp, a.value, six) * kSixth, spread(clamp, a.value, a.proven));
}

}  // namespace

Bounded min(const Bounded& a, double limit) {
  return clamped(a, [limit](double x) { return x > limit ? limit : x; });
}

Bounded max(const Bounded& a, double limit) {
  return clamped(a, [limit](double x) { return x < limit ? limit : x; });
}

namespace {

// A function of x: `travelled(bound)` is how far its result moves when x moves by as much, `own(bound)` the errors of its own
// computation for all these x. The latter may be systematic: they enter sigma with their full size, and not in quadrature,
// since the former may be a fact (a bf16 number and its neighbour) rather than noise.
template <class Travelled, class Own>
Bounded through(const Bounded& x, double value, Travelled travelled, Own own) {
  if (!usable(x)) return settled(value, kInf, kInf);
  const double six = kSuspectSigmas * x.sigma;
  if (value == 0 && x.is_exact()) return Bounded::exact(value);
  return finished(value, travelled(six) * kSixth + own(six) + kOwnFloor,
                  travelled(x.proven) + own(x.proven) + kOwnFloor);
}

// s = 1 / (1 + exp(-x)):  ds / s = (1 - s) d(exp)/exp + u (add) + 6u (divide), for x no less than `lowest`.
double sigmoid_error(double lowest, double widest) {
  return (sigmoid_of(-lowest) * exp_error(widest) + (1 + kDivideUlps) * kU32) * kSecondOrder;
}

}  // namespace

Bounded sigmoid(const Bounded& x) {
  const double v = x.value;
  const auto travelled = [v](double bound) { return spread(sigmoid_of, v, bound); };
  const auto own = [v](double bound) {
    return sigmoid_of(v + bound) * sigmoid_error(v - bound, std::fabs(v) + bound);
  };
  return through(x, sigmoid_of(v), travelled, own);
}

// x / (1 + exp(-x)) or x * sigmoid(x): the relative error of sigmoid and one more rounding.
Bounded silu(const Bounded& x) {
  constexpr double kLowestAt = -1.278464542761074, kLowest = -0.27846454276107380;  // silu falls left of it
  const double v = x.value, value = silu_of(v);
  const auto travelled = [v, value](double bound) {
    const bool turns = v - bound < kLowestAt && kLowestAt < v + bound;
    return std::fmax(spread(silu_of, v, bound), turns ? value - kLowest : 0);
  };
  const auto own = [v, value, travelled](double bound) {
    const double largest = std::fabs(value) + travelled(bound);
    const double rounding = largest * (sigmoid_error(v - bound, std::fabs(v) + bound) + kU32);
    // Where exp(-x) is Inf in fp32, or sigmoid(x) is flushed, the result is 0 although x times it would be normal.
    const bool vanishes = sigmoid_of(v - bound) < kFlushed32 * (1 + 0x1p-10);
    return vanishes ? std::fmax(rounding, std::fabs(value)) : rounding;
  };
  return through(x, value, travelled, own);
}

// log(1 + e), e = exp(x):  d = sigmoid(x) de/e + u (1 + e rounded; log1p does not, and is better) + 8u log(1 + e)
Bounded softplus(const Bounded& x) {
  const double v = x.value;
  const auto travelled = [v](double bound) { return spread(softplus_of, v, bound); };
  const auto own = [v](double bound) {
    const double high = v + bound, exponential = sigmoid_of(high) * exp_error(std::fabs(v) + bound);
    return (exponential + kU32 + kLogError * softplus_of(high)) * kSecondOrder;
  };
  return through(x, softplus_of(v), travelled, own);
}

namespace {

// Farthest of the numbers that `value` +- bound rounds to, from what `value` rounds to. 0 where they are all the same.
double farthest_rounding(DType dtype, double value, double bound, double nearest, Overflow overflow) {
  // The ends are computed in double: one last place outwards makes up for it.
  const double low = value - bound, high = value + bound;
  const double down = round_to(dtype, low - std::fabs(low) * 0x1p-52, overflow);
  const double up = round_to(dtype, high + std::fabs(high) * 0x1p-52, overflow);
  if (std::isnan(down) || std::isnan(up)) return kInf;  // overflow in a format without Inf
  return std::fmax(up - nearest, nearest - down);
}

Bounded round_here(DType dtype, const Bounded& b, Overflow overflow) {
  const double nearest = round_to(dtype, b.value, overflow);
  if (b.proven == 0) return settled(nearest, 0, 0);
  if (!std::isfinite(nearest) || !usable(b)) return settled(nearest, kInf, kInf);
  const double proven = farthest_rounding(dtype, b.value, b.proven, nearest, overflow);
  if (proven == 0) return Bounded::exact(nearest);
  const double six = b.suspect_bound();
  const double reached = six == 0 ? 0 : farthest_rounding(dtype, b.value, six, nearest, overflow);
  if (reached == 0) return settled(nearest, 0, proven);
  // One step, taken as often as normal noise crosses the midpoint; but never so rare that 6 sigma miss the
  // number reached and the roundings that follow it.
  const double flip = std::erfc(midpoint_distance(dtype, b.value) / (b.sigma * std::sqrt(2.0))) / 2;
  const double step = std::fmin(reached, next_up(dtype, std::fabs(nearest)) - std::fabs(nearest));
  const double sigma = std::fmax(step * std::sqrt(flip), reached / 5);
  return settled(nearest, sigma, proven);
}

Bounded round_anywhere(DType dtype, const Bounded& b, Overflow overflow) {
  const double nearest = round_to(dtype, b.value, overflow);
  if (b.proven == 0 && nearest == b.value) return settled(b.value, 0, 0);
  const double high = std::fabs(b.value) + b.proven;
  if (!std::isfinite(nearest) || !usable(b)) return settled(b.value, kInf, kInf);
  const double moved = round_to(dtype, high, overflow);
  if (!std::isfinite(moved)) return settled(b.value, b.sigma, kInf);
  // Half of the widest step in reach; what saturation cuts off comes on top.
  const double below = next_down(dtype, moved), step = moved - below;
  const double half = std::fmax(step / 2, std::fabs(moved - high));
  return settled(b.value, std::sqrt(square(b.sigma) + square(half / kRoot3)), b.proven + half);
}

}  // namespace

Bounded round_to(DType dtype, const Bounded& b, Rounding rounding, Overflow overflow) {
  switch (rounding) {
    case Rounding::kNone:
      return b;
    case Rounding::kRound:
      return round_here(dtype, b, overflow);
    case Rounding::kAny:
      return round_anywhere(dtype, b, overflow);
  }
  return b;
}

}  // namespace moecheck::reference
