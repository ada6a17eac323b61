// Sums of products, the hot loop of every reference: 0.25 to 0.4 ns per product.
#include <algorithm>
#include <bit>
#include <cfloat>
#include <limits>

#include "reference/bounded.h"

namespace moecheck::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kExactSpan = 0x1p24;  // multiples of q up to 2^24 q are fp32 numbers

double square(double x) { return x * x; }

// n roundings of at most u: (1 + u)^n - 1 <= n u / (1 - n u). The last factor pays for the double sums themselves.
double gamma_of(double n) { return n * kU32 < 1 ? n * kU32 / (1 - n * kU32) * (1 + 0x1p-20) : kInf; }

// Two doubles side by side. Plain arrays say the same, but compilers turn those loops into shuffles and lose a factor of 3.
using Pair = double __attribute__((vector_size(16)));
using PairBits = long long __attribute__((vector_size(16)));
constexpr long long kNoSign = std::numeric_limits<long long>::max();

Pair magnitudes(Pair x) { return (Pair)((PairBits)x & PairBits{kNoSign, kNoSign}); }
double total(Pair x) { return x[0] + x[1]; }
double largest(Pair x) { return std::fmax(x[0], x[1]); }
template <class B>
Pair pair_at(const B* b) {
  return Pair{static_cast<double>(b[0]), static_cast<double>(b[1])};
}

struct Sums {
  double y = 0, squares = 0, magnitude = 0;  // of the products
  double inherited = 0, variance = 0;        // sum |b| proven, sum b^2 sigma^2 of the left side
  double max_a = 0, max_b = 0;               // where asked for
};

// y = sum a b. Two pairs of accumulators each hide the latency of the additions; an odd tail goes one by one.
template <bool kLargest, class B>
Sums multiply(const double* a, const B* b, std::int64_t n) {
  Pair y0{}, y1{}, q0{}, q1{}, s0{}, s1{}, max_a{}, max_b{};
  const auto raise = [](Pair& high, Pair x) {
    x = magnitudes(x);
    high = x > high ? x : high;
  };
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const Pair a0 = pair_at(a + i), a1 = pair_at(a + i + 2), b0 = pair_at(b + i), b1 = pair_at(b + i + 2);
    const Pair p0 = a0 * b0, p1 = a1 * b1;
    y0 += p0, y1 += p1;
    q0 += p0 * p0, q1 += p1 * p1;
    s0 += magnitudes(p0), s1 += magnitudes(p1);
    if constexpr (kLargest) raise(max_a, a0), raise(max_a, a1), raise(max_b, b0), raise(max_b, b1);
  }
  Sums sums{total(y0 + y1), total(q0 + q1), total(s0 + s1), 0, 0, largest(max_a), largest(max_b)};
  for (; i < n; ++i) {
    const double p = a[i] * static_cast<double>(b[i]);
    sums.y += p;
    sums.squares += p * p;
    sums.magnitude += std::fabs(p);
    sums.max_a = std::fmax(sums.max_a, std::fabs(a[i]));
    sums.max_b = std::fmax(sums.max_b, std::fabs(static_cast<double>(b[i])));
  }
  return sums;
}

// What errors of the left side become: sum |b| proven and sum b^2 sigma^2.
template <class B>
void inherit(const double* proven, const double* variance, const B* b, std::int64_t n, Sums& sums) {
  Pair e0{}, e1{}, v0{}, v1{};
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const Pair b0 = pair_at(b + i), b1 = pair_at(b + i + 2);
    e0 += magnitudes(b0) * pair_at(proven + i), e1 += magnitudes(b1) * pair_at(proven + i + 2);
    v0 += b0 * b0 * pair_at(variance + i), v1 += b1 * b1 * pair_at(variance + i + 2);
  }
  sums.inherited = total(e0 + e1), sums.variance = total(v0 + v1);
  for (; i < n; ++i) {
    const double x = static_cast<double>(b[i]);
    sums.inherited += std::fabs(x) * proven[i];
    sums.variance += x * x * variance[i];
  }
}

// Exponent of the lowest bit that is set. x is finite and not 0.
int lowest_bit(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  const int exponent = static_cast<int>(bits >> 52 & 0x7FF);
  const std::uint64_t mantissa = bits & ((std::uint64_t{1} << 52) - 1);
  if (exponent == 0) return std::countr_zero(mantissa) - 1074;
  return exponent - 1075 + std::countr_zero(mantissa | std::uint64_t{1} << 52);
}

double power_of_two(int exponent) {
  if (exponent < -1022) return std::ldexp(1, exponent);
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

// Sums of multiples of q stay fp32 numbers when none can pass 2^24 q, and no flush can touch multiples of 2^-126.
bool sums_are_exact(double q, double magnitude) {
  return magnitude == 0 || (q >= kFlushed32 && q * kExactSpan >= magnitude && magnitude <= FLT_MAX);
}

// Is b made of multiples of g? Adding 1.5 * 2^52 g leaves no room for anything smaller than g. May say no of elements past
// 2^51 g. Inf and NaN are no multiples.
template <class B>
bool multiples_of(double g, const B* b, std::int64_t n) {
  const double shift = 0x1.8p52 * g;
  for (std::int64_t i = 0; i < n; ++i) {
    const double x = static_cast<double>(b[i]);
    if (((x + shift) - shift) - x != 0) return false;
  }
  return true;
}

// Lowest set bit of all elements; kNoBit for zeros alone.
constexpr int kNoBit = std::numeric_limits<int>::max();
int lowest_bit(const double* a, std::int64_t n) {
  int lowest = kNoBit;
  for (std::int64_t i = 0; i < n; ++i)
    if (a[i] != 0) lowest = std::min(lowest, lowest_bit(a[i]));
  return lowest;
}

// quantum(a) quantum(b) only shrinks with more elements, so generic data are turned away after a few.
bool products_are_exact(const double* a, const double* b, std::int64_t n, double magnitude) {
  if (magnitude == 0) return true;
  if (!(magnitude <= FLT_MAX)) return false;
  int qa = kNoBit, qb = kNoBit;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(n, 64); i += 4) {
    const std::int64_t m = std::min<std::int64_t>(n - i, 4);
    qa = std::min(qa, lowest_bit(a + i, m)), qb = std::min(qb, lowest_bit(b + i, m));
    if (qa == kNoBit || qb == kNoBit) continue;  // zeros say nothing yet
    if (!sums_are_exact(power_of_two(qa) * power_of_two(qb), magnitude)) return false;
  }
  const double all_a = quantum(a, n), all_b = quantum(b, n);
  return all_a >= kFlushed32 && all_b >= kFlushed32 && sums_are_exact(all_a * all_b, magnitude);
}

// The same with quantum(a) known: b's must reach `needed`.
template <class B>
bool products_are_exact(double qa, const B* b, std::int64_t n, double magnitude) {
  if (magnitude == 0) return true;
  if (!(qa >= kFlushed32 && magnitude <= FLT_MAX)) return false;
  const double needed = std::max({magnitude / kExactSpan / qa, kFlushed32, kFlushed32 / qa});
  double g = power_of_two(std::ilogb(needed));
  if (g < needed) g *= 2;
  return multiples_of(g, b, n);
}

// Bounds of a sum of n terms (`roundings` per term on any path) whose inner errors are `inherited` and `variance`.
// `flush`: what flushing may add, in all.
Bounded summed(const Sums& s, double n, double roundings, double flush) {
  const double magnitude = s.magnitude + s.inherited;
  // Partial sums of some order may pass FLT_MAX though the result does not.
  if (!(std::fabs(s.y) <= magnitude * 2 && magnitude <= FLT_MAX)) return {s.y, kInf, kInf};
  const double proven = s.inherited * (1 + n * 0x1p-52) + gamma_of(roundings) * magnitude + flush;
  const double sigma = std::sqrt(s.variance + square(kU32) * n * (square(s.y) + s.squares) / 3) + flush;
  if (!(proven + magnitude <= FLT_MAX)) return {s.y, std::fmin(sigma, proven), kInf};
  return {s.y, std::fmin(sigma, proven), proven};
}

// Under 2^-126 products and partial sums may be flushed, and so may the factors: |a_i b_i| is lost then.
double flush_of(double n, double max_a, double max_b) { return n * kFlushed32 * (2 + max_a + max_b); }

template <class B>
Bounded dot_left(const DotLeft& a, std::int64_t begin, const B* b, std::int64_t n) {
  const auto at = static_cast<std::size_t>(begin);
  // The largest b matters only to subnormal a: rare, so it costs a second look.
  Sums s = a.has_subnormals ? multiply<true>(a.value.data() + at, b, n)
                            : multiply<false>(a.value.data() + at, b, n);
  if (!a.exact) inherit(a.proven.data() + at, a.variance.data() + at, b, n, s);
  if (s.inherited == 0 && products_are_exact(a.quantum, b, n, s.magnitude)) return Bounded::exact(s.y);
  const double terms = static_cast<double>(n);
  return summed(s, terms, terms, flush_of(terms, a.largest, a.has_subnormals ? s.max_b : 0));
}

}  // namespace

DotLeft::DotLeft(const double* a, std::int64_t n) { assign(a, n); }
DotLeft::DotLeft(const Bounded* a, std::int64_t n) { assign(a, n); }

void DotLeft::assign(const double* a, std::int64_t n) {
  value.assign(a, a + n);
  proven.clear();
  variance.clear();
  exact = true;
  measure();
}

void DotLeft::assign(const Bounded* a, std::int64_t n) {
  const auto size = static_cast<std::size_t>(n);
  value.resize(size);
  proven.resize(size);
  variance.resize(size);
  exact = true;
  for (std::size_t i = 0; i < size; ++i) {
    value[i] = a[i].value;
    proven[i] = a[i].proven;
    variance[i] = square(a[i].sigma);
    exact = exact && a[i].is_exact();
  }
  measure();
}

void DotLeft::measure() {
  quantum = reference::quantum(value.data(), static_cast<std::int64_t>(value.size()));
  largest = 0;
  has_subnormals = false;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const double magnitude = std::fabs(value[i]), error = exact ? 0 : proven[i];
    largest = magnitude + error > largest ? magnitude + error : largest;
    has_subnormals |= magnitude - error < kFlushed32 && magnitude + error > 0;
  }
}

Bounded dot(const DotLeft& a, const double* b) {
  return dot_left(a, 0, b, static_cast<std::int64_t>(a.value.size()));
}
Bounded dot(const DotLeft& a, const float* b) {
  return dot_left(a, 0, b, static_cast<std::int64_t>(a.value.size()));
}
Bounded dot(const DotLeft& a, std::int64_t begin, const double* b, std::int64_t n) {
  return dot_left(a, begin, b, n);
}
Bounded dot(const DotLeft& a, std::int64_t begin, const float* b, std::int64_t n) {
  return dot_left(a, begin, b, n);
}

Bounded dot(const double* a, const double* b, std::int64_t n) {
  const Sums s = multiply<true>(a, b, n);
  if (products_are_exact(a, b, n, s.magnitude)) return Bounded::exact(s.y);
  const double terms = static_cast<double>(n);
  return summed(s, terms, terms, flush_of(terms, s.max_a, s.max_b));
}

Bounded dot(const Bounded* a, const double* b, std::int64_t n) {
  // In pieces that stay in the cache: a DotLeft that is used once would cost more than it saves.
  constexpr std::int64_t kPiece = 256;
  double value[kPiece], proven[kPiece], variance[kPiece];
  Sums s;
  for (std::int64_t begin = 0; begin < n; begin += kPiece) {
    const std::int64_t m = std::min(kPiece, n - begin);
    double largest = 0;
    for (std::int64_t i = 0; i < m; ++i) {
      const Bounded& x = a[begin + i];
      value[i] = x.value, proven[i] = x.proven, variance[i] = square(x.sigma);
      largest = x.proven > largest ? x.proven : largest;
    }
    Sums piece = multiply<true>(value, b + begin, m);
    inherit(proven, variance, b + begin, m, piece);
    s.y += piece.y, s.squares += piece.squares, s.magnitude += piece.magnitude;
    s.inherited += piece.inherited, s.variance += piece.variance;
    s.max_a = std::fmax(s.max_a, piece.max_a + largest), s.max_b = std::fmax(s.max_b, piece.max_b);
  }
  if (s.inherited == 0) return dot(DotLeft(a, n), b);  // exactness is to be looked for
  const double terms = static_cast<double>(n);
  return summed(s, terms, terms, flush_of(terms, s.max_a, s.max_b));
}

Bounded sum(const Bounded* terms, std::int64_t n) {
  if (n == 1) return terms[0];
  Sums s;
  double q = kInf;
  for (std::int64_t i = 0; i < n; ++i) {
    const double v = terms[i].value;
    s.y += v;
    s.squares += v * v;
    s.magnitude += std::fabs(v);
    s.inherited += terms[i].proven;
    s.variance += square(terms[i].sigma);
    if (v != 0) q = std::fmin(q, quantum(&v, 1));
  }
  if (s.inherited == 0 && sums_are_exact(q, s.magnitude)) return Bounded::exact(s.y);
  const double adds = static_cast<double>(n - 1);
  // Terms and partial sums may be flushed.
  return summed(s, adds, adds, (2 * adds + 1) * kFlushed32);
}

double quantum(const double* a, std::int64_t n) {
  constexpr std::int64_t kPiece = 64;
  int lowest = kNoBit;
  for (std::int64_t begin = 0; begin < n; begin += kPiece) {
    const std::int64_t m = std::min(kPiece, n - begin);
    // Most pieces change nothing, and that is quick to see.
    if (lowest != kNoBit && multiples_of(power_of_two(lowest), a + begin, m)) continue;
    for (std::int64_t i = begin; i < begin + m; ++i)
      if (!std::isfinite(a[i])) return 0;
    lowest = std::min(lowest, lowest_bit(a + begin, m));
  }
  return lowest == kNoBit ? 0 : power_of_two(lowest);
}

}  // namespace moecheck::reference
