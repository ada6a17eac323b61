#pragma once
// The numbers of the indexer's quantizer: a group's scale, and the codes of its elements. Semantics: reference/indexer_cache.h, to the
// bit, on every backend.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/math.h"
#include "optimized/gpu/number_formats.h"
#include "reference/indexer_cache.h"

namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h

struct Quantizer {
  float divisor = 448, inverse_divisor = 0, amax_floor = 0;
  bool scale_by_inverse = false;  // a * fl32(1 / F)
  bool value_by_inverse = false;  // k * fl32(1 / scale); powers of two divide exactly either way
  bool power_of_two = false;
  bool nan_is_lowest = false;  // else NaN has a NaN code
};

inline Quantizer quantizer(const reference::IndexerQuant& q) {
  using reference::DivisionOp;
  Quantizer n;
  n.divisor = static_cast<float>(q.divisor);
  n.inverse_divisor = 1.0F / n.divisor;
  n.amax_floor = static_cast<float>(q.amax_floor);
  n.scale_by_inverse = q.scale_op == DivisionOp::kReciprocal;
  n.value_by_inverse = q.value_op == DivisionOp::kReciprocal || q.ue8m0;
  n.power_of_two = q.ue8m0;
  n.nan_is_lowest = q.non_finite == reference::NonFiniteKeys::kClamped;
  return n;
}

#if defined(GPU_BACKEND_HOST)
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline float magnitude(float v) { return std::fabs(v); }
#else
GPU_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
GPU_DEVICE float magnitude(float v) { return fabsf(v); }
#endif

// The largest magnitude so far, and one more number: NaN is passed over.
GPU_DEVICE float larger_amax(float amax, float v) { return larger(amax, magnitude(v)); }

GPU_DEVICE float scale_of(const Quantizer& q, float amax) {
  const float a = larger(amax, q.amax_floor);
  const float s = q.scale_by_inverse ? a * q.inverse_divisor : a / q.divisor;
  // The power of two above: the mantissa's carry. Inf stays.
  const std::uint32_t carry = GPU_FAULT(kGpuIndexerNextPower) ? 0x800000 : 0x7FFFFF;
  return q.power_of_two ? bits_as<float>((float_bits(s) + carry) & 0x7F800000) : s;
}

// Scales whose quotients corrected() rounds: with them no remainder is lost to underflow, unless the quotient's code is 0.
GPU_DEVICE bool corrects(float scale) { return scale >= 0x1p-90F && scale <= 0x1p120F; }

// fl32(k / scale) by y = fl32(1 / scale), which a group's numbers share. The first correction brings the quotient within an ulp; the
// second rounds it to nearest, as its remainder is exact (Markstein). Corrections of a zero lose its sign.
GPU_DEVICE float corrected(float k, float scale, float y) {
  float q = k * y;
  q = fused(fused(-scale, q, k), y, q);
  q = fused(fused(-scale, q, k), y, q);
  return bits_as<float>((float_bits(q) & 0x7FFFFFFF) | (float_bits(k) & 0x80000000));
}

// A group's numbers become quotients.
template <int N>
GPU_DEVICE void divide(const Quantizer& q, float scale, float (&k)[N]) {
  const float y = 1.0F / scale;
  if (q.value_by_inverse) {
    GPU_UNROLL for (int i = 0; i < N; ++i) k[i] = k[i] * y;
  } else if (corrects(scale)) {
    GPU_UNROLL for (int i = 0; i < N; ++i) k[i] = corrected(k[i], scale, y);
  } else {
    GPU_UNROLL for (int i = 0; i < N; ++i) k[i] = k[i] / scale;
  }
}

template <bool kFnuz>
GPU_DEVICE std::uint8_t code_of(const Quantizer& q, float v) {
  if (q.nan_is_lowest && v != v) v = kFnuz ? -240.0F : -448.0F;
  return kFnuz ? to_e4m3fnuz(v) : to_e4m3fn(v);
}

// Codes of two quotients, the first in the low byte. CUDA has an instruction for both, which differs in the sign of NaN alone.
template <bool kFnuz>
GPU_DEVICE std::uint32_t two_codes(const Quantizer& q, float first, float second) {
#if defined(GPU_BACKEND_CUDA) && defined(GPU_HARDWARE_E4M3FN)
  if constexpr (!kFnuz) {
    if (!q.nan_is_lowest) {
      std::uint16_t pair;
      asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(second), "f"(first));
      return pair;
    }
  }
#endif
  return code_of<kFnuz>(q, first) | static_cast<std::uint32_t>(code_of<kFnuz>(q, second)) << 8;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels
