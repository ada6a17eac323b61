#pragma once
// Number formats: what each bit pattern means, and where a real number rounds to.
//
//   format      sign exp mant bias  largest      Inf   NaN                 used for
//   f32          1    8   23  127   3.4e38       yes   exp all ones        logits, weights, scales, accumulators
//   bf16         1    8    7  127   3.39e38      yes   exp all ones        activations, expert weights
//   f16          1    5   10   15   65504        yes   exp all ones        activations, expert weights
//   e4m3fn       1    4    3    7   448          no    S.1111.111          fp8 weights and activations (CUDA, gfx950)
//   e4m3fnuz     1    4    3    8   240          no    0x80 only (no -0)   fp8 on gfx942
//   e5m2         1    5    2   15   57344        yes   exp all ones        fp8 gradients, some caches
//   e8m0         0    8    0  127   2^127        no    0xFF                power-of-two block scales (no zero, no sign)
//
// Encoding rounds to nearest, ties to even, directly from the exact double (one rounding). A value that rounds past the
// largest finite number saturates to it (Overflow::kSaturate: satfinite conversions of CUDA and HIP, and infinities
// too) or becomes Inf, or NaN where the format has no Inf (Overflow::kNonSaturating: IEEE, and the OCP rule).
// NaN always encodes as a quiet NaN, of its own sign where the format has one. In e4m3fnuz -0 encodes as +0.
// In e8m0 zero and negative values encode as NaN, positive values under 2^-127 as 2^-127. Nearest is by value, and
// 1.5 * 2^k, the tie, goes up to 2^(k+1): "even" of a significand of one bit, and what ml_dtypes and torch do.
// Source: IEEE 754; OCP 8-bit floating point and OCP microscaling specifications; golden vectors of ml_dtypes
// (datasets/golden/README.md, which also lists where ml_dtypes departs from this).
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#ifdef __FAST_MATH__
#error \
    "moecheck's references must not be built with -ffast-math: it changes what NaN, Inf, -0 and rounding mean"
#endif

namespace moecheck::reference {

enum class DType : std::uint8_t {
  kF64,
  kF32,
  kBF16,
  kF16,
  kE4M3FN,
  kE4M3FNUZ,
  kE5M2,
  kE8M0,
  kI64,
  kI32,
  kU8
};

enum class Overflow : std::uint8_t { kSaturate, kNonSaturating };

// "f32", "bf16", "e4m3fn", "i32", ...: the name in case lines.
std::string_view name(DType dtype);
// The dtype of that name. Returns false when there is none.
bool parse_dtype(std::string_view name, DType& dtype);
int size_bytes(DType dtype);
bool is_float(DType dtype);

// Bits of `value` rounded to `dtype` (any float format; an integer dtype throws std::invalid_argument, here and below),
// in the low bits of the result.
std::uint64_t encode(DType dtype, double value, Overflow overflow = Overflow::kNonSaturating);
// The number a bit pattern stands for; exact for every format.
double decode(DType dtype, std::uint64_t bits);
// decode(encode(value)): the nearest representable number.
double round_to(DType dtype, double value, Overflow overflow = Overflow::kNonSaturating);

// The representable neighbours of `value`: the largest number of the format <= value and the smallest >= value (equal when
// value is representable), and its nearest. Beyond the largest finite number the outer neighbour is Inf, also in
// formats without one: nothing finite lies there, and `nearest` is Inf where round_to says NaN for want of an Inf.
// e8m0 has no number below 2^-127: lower is then 0; 0 and negative values have no neighbours there, and give NaN as NaN
// does.
struct Neighbours {
  double lower, upper, nearest;
};
Neighbours neighbours(DType dtype, double value);
// The next representable number above (below) `value`, representable or not; Inf past the largest. Zeros are +0.
// NaN gives NaN. In e8m0 0 counts as the number below 2^-127, and negative values give NaN.
double next_up(DType dtype, double value);
double next_down(DType dtype, double value);

// Distance from `value` to the nearest point where rounding changes its mind (the midpoint of two neighbours, or the
// overflow threshold; in e8m0 also 0, where NaN begins). 0 on a midpoint. Inf for NaN and Inf.
double midpoint_distance(DType dtype, double value);

// u = 2^-(mant+1): |round_to(x) - x| <= u |x| in the normal range.
double unit_roundoff(DType dtype);
double max_finite(DType dtype);
double min_normal(DType dtype);
double min_subnormal(DType dtype);  // equals min_normal in e8m0
bool has_infinity(DType dtype);

// The power of two >= value (> 0), as e8m0 bits: the "ceil" rule of UE8M0 block scales. 2^-127 at least, 2^127 at most
// (also for Inf); NaN for NaN or <= 0.
std::uint8_t encode_e8m0_ceil(double value);

// Read and write element i of a packed array; no alignment is asked for. `load` also reads integers (exact up to 2^53),
// `store` does not write them. Inline for the two formats that references read by the million.
double load_any(DType dtype, const void* data, std::int64_t i);
inline double load(DType dtype, const void* data, std::int64_t i) {
  if (dtype == DType::kBF16) {
    std::uint16_t bits;
    std::memcpy(&bits, static_cast<const char*>(data) + 2 * i, 2);
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  if (dtype == DType::kF32) {
    float element;
    std::memcpy(&element, static_cast<const char*>(data) + 4 * i, 4);
    return element;
  }
  return load_any(dtype, data, i);
}
void store(DType dtype, void* data, std::int64_t i, double value,
           Overflow overflow = Overflow::kNonSaturating);
// Integer dtypes only: no detour through double. A value the dtype cannot hold throws std::out_of_range.
std::int64_t load_int(DType dtype, const void* data, std::int64_t i);
void store_int(DType dtype, void* data, std::int64_t i, std::int64_t value);

}  // namespace moecheck::reference
