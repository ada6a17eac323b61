#pragma once
// A number with how far an honest implementation may be from it.
//
//   value    the result in double precision, taken as exact (its own error is 2^29 times smaller than fp32's)
//   sigma    standard deviation of an honest fp32 implementation's error, when rounding errors behave like independent
//            mean-zero noise (Higham & Mary 2019). Six of them: beyond that a result is SUSPECT.
//   proven   a bound no honest implementation can exceed, whatever the order of summation. Beyond it: FAIL.
//
// Honest means: fp32, round to nearest, with or without fused multiply-add; numbers under 2^-126 may be kept or be flushed to
// 0, at the inputs of an operation or at its output. Accumulators that truncate (some tensor cores) err by up to 2u per step
// and with a bias. They are not modelled: a step there adds a whole block of products, so `proven` of a long dot should hold
// them (an estimate, not measured), six sigmas may not.
// Where value is Inf or NaN, or the honest interval reaches past FLT_MAX, proven is Inf: nothing is promised there, and a judge
// compares such elements by class. value follows IEEE; a bound is never NaN. sigma <= proven.
// Errors that are systematic (a fast exp that is always 2 ulp high) enter sigma with their full size: six times that covers
// their coherent sum over any 32 slots. Every operation adds the rounding of one fp32 operation, u = 2^-24; a sum, difference
// or product of exact operands that is itself a fp32 number adds nothing. Errors of the two operands count as independent in
// sigma (not in proven): x * x understates it by up to sqrt(2).
// The running analysis is first order plus the interval ends where the function bends (sqrt, exp).
#include <cmath>
#include <cstdint>
#include <vector>

#include "reference/number_formats.h"

namespace moecheck::reference {

inline constexpr double kU32 = 0x1p-24;         // unit roundoff of fp32
inline constexpr double kTiny32 = 0x1p-149;     // smallest fp32 subnormal; half of it is the rounding floor
inline constexpr double kFlushed32 = 0x1p-126;  // below this honest GPU code may flush to zero
inline constexpr double kSuspectSigmas = 6.0;

struct Bounded {
  double value = 0, sigma = 0, proven = 0;

  // v is a fp32 number, and every implementation holds it. For a constant that fp32 rounds: rounded(exact(v)).
  static Bounded exact(double v) { return {v, 0, 0}; }
  // The two thresholds, on |got - value|.
  double suspect_bound() const { return std::fmin(proven, kSuspectSigmas * sigma); }
  bool is_exact() const { return proven == 0; }
};

// `b` after a computation that errs by at most `ulps` * u, relative, plus the subnormal floor. 1 is one rounding, and noise; more
// is an approximation, taken as systematic. (An ulp of a number is between u and 2u of it: for "within k ulp" pass 2k.)
Bounded rounded(Bounded b, double ulps = 1);

Bounded operator+(const Bounded& a, const Bounded& b);
Bounded operator-(const Bounded& a, const Bounded& b);
Bounded operator*(const Bounded& a, const Bounded& b);
// Within 3 ulp: also a * rcp(b), x * rsqrt(x) and their fast forms.
Bounded operator/(const Bounded& a, const Bounded& b);  // b's interval must not hold 0: the bound is Inf then
Bounded sqrt(const Bounded& a);                         // a's lower end is clamped to 0; negative value: NaN

// Exact operations: no rounding added (a result under 2^-126 may still be flushed). NaN passes min and max.
Bounded scaled_exact(const Bounded& a, double power_of_two);
Bounded negate(const Bounded& a);
Bounded min(const Bounded& a, double limit);
Bounded max(const Bounded& a, double limit);

// sigmoid, silu = x * sigmoid(x), log1p(exp(x)): exp within 4 ulp after an argument scaling (exp2f(x * log2e), which errs by
// 1.25 u |x|), add, divide within 3 ulp. softplus may also be log(1 + exp(x)), with the absolute error u of that sum and a
// logarithm within 4 ulp; implementations return x itself from 20 on at the latest where exp(x) overflows.
Bounded sigmoid(const Bounded& x);
Bounded silu(const Bounded& x);
Bounded softplus(const Bounded& x);

// Rounding to a storage dtype, as a policy says it is done:
//   kRound   it is rounded there: value moves to the nearest number; where the error straddles a midpoint, both neighbours
//            are honest, and the bound says so
//   kNone    it is kept in fp32
//   kAny     implementations differ: half a step of the dtype is added to the bound, the value stays (an exact value that
//            the dtype can hold stays exact)
// sigma of a straddle: one step times the square root of the probability that noise crosses the midpoint, and at least a fifth
// of the way to the farthest number that +- 6 sigma rounds to. Where only the proven interval straddles sigma is 0: a flip there
// is SUSPECT.
enum class Rounding : std::uint8_t { kRound, kNone, kAny };
Bounded round_to(DType dtype, const Bounded& b, Rounding rounding = Rounding::kRound,
                 Overflow overflow = Overflow::kNonSaturating);

// Sum of products of n exact numbers, a in any stored dtype. The order is unknown to the judge, so
//   proven = gamma_n * sum |a_i b_i|,          gamma_n = n u / (1 - n u)   (Higham, ASNA 3.1; products included)
//   sigma^2 = u^2 n (y^2 + sum (a_i b_i)^2) / 3                            (partial sums of a random order)
// and both are 0 when every partial sum of every order is representable in fp32 (integers: see quantum()):
// sum |a_i b_i| <= 2^24 quantum(a) quantum(b). Both grow by what flushing can do, n 2^-126 (2 + max |a| + max |b|).
Bounded dot(const double* a, const double* b, std::int64_t n);
// The same with a bounded left side (activations): proven += sum |b_i| proven_i, sigma^2 += sum b_i^2 sigma_i^2, and
// gamma_n is of sum |b_i| (|a_i| + proven_i).
Bounded dot(const Bounded* a, const double* b, std::int64_t n);

// A left side that meets many right sides (an activation row and the rows of a weight), looked at once: the dots below are up
// to twice as fast as the ones above, and mean the same. It owns a copy. `begin` picks a slice of a: one scale block of a row.
// (A slice may miss exactness that its own, coarser quantum would prove.)
struct DotLeft {
  DotLeft() = default;
  DotLeft(const double* a, std::int64_t n);
  DotLeft(const Bounded* a, std::int64_t n);
  void assign(const double* a, std::int64_t n);  // reuses the memory
  void assign(const Bounded* a, std::int64_t n);

  std::vector<double> value, proven, variance;  // the last two empty after assign(const double*)
  double quantum = 0, largest = 0;              // largest: max |value| + proven
  bool exact = true, has_subnormals = false;

 private:
  void measure();
};
Bounded dot(const DotLeft& a, const double* b);  // b [n]
Bounded dot(const DotLeft& a, const float* b);
Bounded dot(const DotLeft& a, std::int64_t begin, const double* b,
            std::int64_t n);  // a [begin, begin + n), b [n]
Bounded dot(const DotLeft& a, std::int64_t begin, const float* b, std::int64_t n);

// Sums of bounded terms in unknown order: as dot, with n - 1 roundings and no products. One term stays as it is; none is 0.
Bounded sum(const Bounded* terms, std::int64_t n);

// The largest power of two that divides every element (0 for an all-zero vector; non-finite gives 0).
double quantum(const double* a, std::int64_t n);

}  // namespace moecheck::reference
