#pragma once
// Honest fp32 hardware, in several makes: what Bounded promises to bound. Every knob is a habit of some real GPU or compiler.
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace moecheck::test {

struct Fp32Machine {
  std::mt19937_64 rng;
  bool fma = false;    // contract a * b + c
  bool flush = false;  // numbers under 2^-126 are 0, in and out
  bool fast = false;   // exp as exp2 of a scaled argument, division by a reciprocal, log(1 + e)
  int drift = 0;       // ulps that approximations are always off by; 3 and -3 are the worst

  explicit Fp32Machine(std::uint64_t seed) : rng(seed) {
    const std::uint64_t make = rng();
    fma = make & 1, flush = make & 2, fast = make & 4;
    constexpr int kDrifts[] = {0, 3, -3, 1};
    drift = kDrifts[make >> 3 & 3];
  }

  std::uint64_t below(std::uint64_t n) { return rng() % n; }
  float kept(float x) const { return flush && std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }

  // x moved by some ulps; Inf, NaN and 0 stay, which every make gets right.
  static float moved(float x, int ulps) {
    if (!std::isfinite(x) || x == 0) return x;
    const float target =
        ulps > 0 ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity();
    for (int i = std::abs(ulps); i > 0; --i) x = std::nextafter(x, target);
    return x;
  }
  // Half an ulp from rounding is already in x.
  float approximate(float x, int ulps) {
    return moved(x, drift == 0 ? static_cast<int>(below(2 * ulps + 1)) - ulps : drift * ulps / 3);
  }

  float add(float a, float b) const { return kept(kept(a) + kept(b)); }
  float multiply(float a, float b) const { return kept(kept(a) * kept(b)); }
  float multiply_add(float a, float b, float c) const {
    return fma ? kept(std::fma(kept(a), kept(b), kept(c))) : add(multiply(a, b), c);
  }
  float divide(float a, float b) {
    a = kept(a), b = kept(b);
    if (!fast) return kept(approximate(a / b, 2));
    if (std::fabs(b) > 0x1p126f && below(2) == 0) return 0 * a;  // __fdividef
    return multiply(a, kept(approximate(1 / b, 1)));
  }
  float sqrt(float a) { return kept(approximate(std::sqrt(kept(a)), 2)); }
  float exp(float x) {
    x = kept(x);
    const float argument = fast ? multiply(x, 1.44269504088896340736f) : x;
    const double e = fast ? std::exp2(double{argument}) : std::exp(double{argument});
    return kept(approximate(static_cast<float>(e), 3));
  }
  float sigmoid(float x) { return divide(1, add(1, exp(-x))); }
  float silu(float x) { return below(2) == 0 ? multiply(x, sigmoid(x)) : divide(x, add(1, exp(-x))); }
  float softplus(float x) {
    if (x > 20) return x;
    const float e = exp(x);
    return kept(
        approximate(static_cast<float>(fast ? std::log(double{add(1, e)}) : std::log1p(double{e})), 3));
  }
};

}  // namespace moecheck::test
