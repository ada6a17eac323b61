#pragma once
// What the sources behind number_formats.h share. Nobody else includes it.
#include <bit>
#include <limits>
#include <utility>

#include "reference/number_formats.h"

namespace moecheck::reference::detail {

using std::bit_cast;
using u64 = std::uint64_t;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr u64 kSign64 = u64{1} << 63;
constexpr u64 kInf64 = u64{0x7FF} << 52;

// Codes of one sign are in the order of their magnitudes, so most functions below work on the magnitude's
// *ordinal*: its code without the sign. Ordinal max_code + 1 stands for the number that would follow the
// largest: the overflow threshold lies half way to it. e8m0 has no zero; its ordinal is code + 1, so that
// ordinal 0 is zero there too.
struct Format {
  int mant_bits, bias, sign_bit;
  u64 max_code, inf_code, nan_code;  // inf_code == nan_code: no Inf
};

constexpr Format kFormatF32{23, 127, 31, 0x7F7FFFFF, 0x7F800000, 0x7FC00000};
constexpr Format kFormatBF16{7, 127, 15, 0x7F7F, 0x7F80, 0x7FC0};
constexpr Format kFormatF16{10, 15, 15, 0x7BFF, 0x7C00, 0x7E00};
constexpr Format kFormatE4M3FN{3, 7, 7, 0x7E, 0x7F, 0x7F};
constexpr Format kFormatE4M3FNUZ{3, 8, 7, 0x7F, 0x80, 0x80};
constexpr Format kFormatE5M2{2, 15, 7, 0x7B, 0x7C, 0x7E};
constexpr int kBiasE8M0 = 127;
constexpr u64 kMaxE8M0 = 0xFE, kNaNE8M0 = 0xFF;

constexpr double pow2(int e) { return bit_cast<double>(static_cast<u64>(1023 + e) << 52); }

// Bits of the double's exponent field that `f` does not have: shifting a double's magnitude right by 52 -
// mant_bits and subtracting this gives the ordinal of a normal number.
constexpr u64 rebias(const Format& f) { return static_cast<u64>(1023 - f.bias) << f.mant_bits; }
constexpr u64 min_normal_bits(const Format& f) { return static_cast<u64>(1023 + 1 - f.bias) << 52; }
constexpr double min_subnormal_of(const Format& f) { return pow2(1 - f.bias - f.mant_bits); }

constexpr double value_of(const Format& f, u64 ordinal) {
  if ((ordinal >> f.mant_bits) == 0) return static_cast<double>(ordinal) * min_subnormal_of(f);
  return bit_cast<double>((ordinal + rebias(f)) << (52 - f.mant_bits));
}

// Right shift that takes the magnitude of a double under the format's normal range to a count of its
// subnormal steps.
constexpr int subnormal_shift(const Format& f, u64 magnitude) {
  return 52 - f.mant_bits + (1023 + 1 - f.bias) - static_cast<int>(magnitude >> 52);
}

// The ordinal a magnitude rounds to, nearest even, from all 53 bits; more than max_code when it overflows.
constexpr u64 nearest_ordinal(const Format& f, u64 magnitude) {
  if (magnitude >= min_normal_bits(f)) {
    const int drop = 52 - f.mant_bits;
    // The carry of a mantissa that rounds up to 2 moves into the exponent field, which is just what is
    // wanted.
    return ((magnitude + ((u64{1} << (drop - 1)) - 1) + ((magnitude >> drop) & 1)) >> drop) - rebias(f);
  }
  const int shift = subnormal_shift(f, magnitude);
  if (shift > 53) return 0;  // under half a step; subnormal doubles end here too
  const u64 significand = (magnitude & ((u64{1} << 52) - 1)) | (u64{1} << 52);
  return (significand + ((u64{1} << (shift - 1)) - 1) + ((significand >> shift) & 1)) >> shift;
}

constexpr u64 truncated_ordinal(const Format& f, u64 magnitude) {
  if (magnitude >= min_normal_bits(f)) return (magnitude >> (52 - f.mant_bits)) - rebias(f);
  const int shift = subnormal_shift(f, magnitude);
  if (shift > 52) return 0;
  return ((magnitude & ((u64{1} << 52) - 1)) | (u64{1} << 52)) >> shift;
}

inline double decode_e8m0(u64 code) {
  return code == kNaNE8M0 ? kNaN : pow2(static_cast<int>(code) - kBiasE8M0);
}

// Adding half of the last place of a one-bit significand carries into the exponent from 1.5 * 2^k on: ties go
// up.
inline u64 encode_e8m0(double value, Overflow overflow) {
  if (!(value > 0)) return kNaNE8M0;
  const u64 magnitude = bit_cast<u64>(value);
  constexpr u64 offset = 1023 - kBiasE8M0;
  const u64 exponent = (magnitude + (u64{1} << 51)) >> 52;
  if (exponent <= offset) return 0;
  if (exponent - offset > kMaxE8M0) return overflow == Overflow::kSaturate ? kMaxE8M0 : kNaNE8M0;
  return exponent - offset;
}

[[noreturn]] void unsupported(const char* function, DType dtype, const char* wanted);

// The formats that are a Format; `fn` gets it as a template argument. f64 and e8m0 are the callers' own.
template <class Fn>
auto with_format(const char* function, DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::kF32:
      return fn.template operator()<kFormatF32>();
    case DType::kBF16:
      return fn.template operator()<kFormatBF16>();
    case DType::kF16:
      return fn.template operator()<kFormatF16>();
    case DType::kE4M3FN:
      return fn.template operator()<kFormatE4M3FN>();
    case DType::kE4M3FNUZ:
      return fn.template operator()<kFormatE4M3FNUZ>();
    case DType::kE5M2:
      return fn.template operator()<kFormatE5M2>();
    default:
      unsupported(function, dtype, "a float format");
  }
}

}  // namespace moecheck::reference::detail
