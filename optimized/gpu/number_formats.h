#pragma once
// Number formats in kernels: bf16, f16, e4m3fn, e4m3fnuz <-> f32, bit for bit what reference/number_formats.h says.
//
// To f32: exact. NaN gives a NaN of the same sign, its payload is not promised.
// From f32: to nearest, ties to even. Past the largest number: Overflow kSaturate gives the largest (infinities too), else Inf,
// or NaN where the format has no Inf. NaN gives the format's quiet NaN with its own sign. e4m3fnuz has no -0: it becomes +0.
// Integer code everywhere; hardware conversions where the device has them and they give the same bits (CUDA: f16 and e4m3fn;
// gfx942: e4m3fnuz), with the cases in which they do not (NaN, Inf) put right.
#include <cstdint>

#include "optimized/gpu/gpu.h"

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

enum class Overflow : std::uint8_t { kSaturate, kNonSaturating };

GPU_DEVICE float from_bf16(std::uint16_t bits) {
  return bits_as<float>(static_cast<std::uint32_t>(bits) << 16);
}

GPU_DEVICE std::uint16_t to_bf16(float v, Overflow overflow = Overflow::kNonSaturating) {
  const std::uint32_t bits = float_bits(v), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<std::uint16_t>(0x7FC0 | sign);
  std::uint32_t code = (magnitude + 0x7FFF + (magnitude >> 16 & 1)) >> 16;
  if (overflow == Overflow::kSaturate && code > 0x7F7F) code = 0x7F7F;
  return static_cast<std::uint16_t>(code | sign);
}

// The fields move to where f32 has them; 2^112 corrects the exponent and makes subnormals normal. Exact.
GPU_DEVICE float from_f16(std::uint16_t bits) {
#ifdef GPU_HARDWARE_F16
  return hardware_from_f16(bits);
#else
  const std::uint32_t magnitude = bits & 0x7FFFu, shifted = magnitude << 13,
                      sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  if (magnitude > 0x7BFF) return bits_as<float>(shifted | 0x7F800000 | sign);
  return bits_as<float>(float_bits(bits_as<float>(shifted) * 0x1p112F) | sign);
#endif
}

GPU_DEVICE std::uint16_t to_f16(float v, Overflow overflow = Overflow::kNonSaturating) {
  const std::uint32_t bits = float_bits(v), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<std::uint16_t>(0x7E00 | sign);
#ifdef GPU_HARDWARE_F16
  std::uint32_t code = hardware_to_f16(bits_as<float>(magnitude));
#else
  std::uint32_t code;
  if (magnitude < 0x38800000) {  // below 2^-14: steps of 2^-24, the steps of f32 in [0.5, 1)
    code = float_bits(bits_as<float>(magnitude) + 0.5F) - 0x3F000000;
  } else {
    code = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    if (code > 0x7C00) code = 0x7C00;
  }
#endif
  if (overflow == Overflow::kSaturate && code > 0x7BFF) code = 0x7BFF;
  return static_cast<std::uint16_t>(code | sign);
}

// e4m3: 4 bits of exponent, 3 of mantissa. kFnuz: e4m3fnuz, whose exponents are one lower and whose only NaN is 0x80.
template <bool kFnuz>
GPU_DEVICE float from_e4m3_bits(std::uint8_t bits) {
  const std::uint32_t magnitude = bits & 0x7Fu, sign = static_cast<std::uint32_t>(bits & 0x80) << 24;
  const bool nan = kFnuz ? bits == 0x80 : magnitude == 0x7F;
  if (nan) return bits_as<float>(0x7FC00000 | sign);
  return bits_as<float>(float_bits(bits_as<float>(magnitude << 20) * (kFnuz ? 0x1p119F : 0x1p120F)) | sign);
}

template <bool kFnuz>
GPU_DEVICE std::uint8_t to_e4m3_bits(float v, Overflow overflow) {
  constexpr std::uint32_t kMax = kFnuz ? 0x7F : 0x7E, kBias = kFnuz ? 8 : 7;
  constexpr std::uint32_t kMinNormal = (127 + 1 - kBias) << 23;
  const std::uint32_t bits = float_bits(v), sign = bits >> 24 & 0x80, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<std::uint8_t>(kFnuz ? 0x80 : 0x7F | sign);
  std::uint32_t code;
  if (magnitude < kMinNormal) {  // steps of 2^(1 - bias - 3): those of f32 in [2^e, 2^(e+1)), e = 21 - bias
    constexpr std::uint32_t kAnchor = (127 + 21 - kBias) << 23;
    code = float_bits(bits_as<float>(magnitude) + bits_as<float>(kAnchor)) - kAnchor;
  } else {
    code = (magnitude - ((127 - kBias) << 23) + 0x7FFFF + (magnitude >> 20 & 1)) >> 20;
  }
  if (code > kMax) {
    if (overflow == Overflow::kSaturate)
      code = kMax;
    else
      return static_cast<std::uint8_t>(kFnuz ? 0x80 : 0x7F | sign);
  }
  if (kFnuz && code == 0) return 0;
  return static_cast<std::uint8_t>(code | sign);
}

GPU_DEVICE float from_e4m3fn(std::uint8_t bits) {
#ifdef GPU_HARDWARE_E4M3FN
  return hardware_from_e4m3fn(bits);
#else
  return from_e4m3_bits<false>(bits);
#endif
}
GPU_DEVICE float from_e4m3fnuz(std::uint8_t bits) {
#ifdef GPU_HARDWARE_E4M3FNUZ
  return hardware_from_e4m3fnuz(bits);
#else
  return from_e4m3_bits<true>(bits);
#endif
}

GPU_DEVICE std::uint8_t to_e4m3fn(float v, Overflow overflow = Overflow::kSaturate) {
#ifdef GPU_HARDWARE_E4M3FN
  if (overflow == Overflow::kSaturate) {
    const std::uint32_t bits = float_bits(v);
    const std::uint8_t sign = static_cast<std::uint8_t>(bits >> 24 & 0x80);
    return static_cast<std::uint8_t>(hardware_to_e4m3fn(bits_as<float>(bits & 0x7FFFFFFF)) | sign);
  }
#endif
  return to_e4m3_bits<false>(v, overflow);
}
GPU_DEVICE std::uint8_t to_e4m3fnuz(float v, Overflow overflow = Overflow::kSaturate) {
#ifdef GPU_HARDWARE_E4M3FNUZ
  if (overflow == Overflow::kSaturate) {
    if (v != v) return 0x80;
    const std::uint8_t code = hardware_to_e4m3fnuz(v);  // of v cut off at +-240
    return code == 0x80 ? std::uint8_t{0} : code;
  }
#endif
  return to_e4m3_bits<true>(v, overflow);
}

// A number of each stored type as f32: what kernels are templated on.
struct StoredF32 {
  using Bits = float;
  static GPU_DEVICE float load(float v) { return v; }
  static GPU_DEVICE float store(float v) { return v; }
};
struct StoredBF16 {
  using Bits = std::uint16_t;
  static GPU_DEVICE float load(std::uint16_t bits) { return from_bf16(bits); }
  static GPU_DEVICE std::uint16_t store(float v) { return to_bf16(v); }
};
struct StoredF16 {
  using Bits = std::uint16_t;
  static GPU_DEVICE float load(std::uint16_t bits) { return from_f16(bits); }
  static GPU_DEVICE std::uint16_t store(float v) { return to_f16(v); }
};

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
