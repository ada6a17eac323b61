#pragma once
// Functions that kernels share. Their errors lie within what the references' bounds allow for (reference/gating_scores.cpp): exp
// within 2 + 1.2 |x| ulp, quotients within 3 ulp.
#include "optimized/gpu/gpu.h"

#if defined(GPU_BACKEND_HOST)
#include <cmath>
#endif

namespace moecheck::gpu::inline MOECHECK_GPU_ON {

#if defined(GPU_BACKEND_CUDA)
GPU_DEVICE float fast_exp(float x) { return __expf(x); }
GPU_DEVICE float fast_divide(float a, float b) { return __fdividef(a, b); }
GPU_DEVICE float log1p_of(float x) { return log1pf(x); }
GPU_DEVICE float sqrt_of(float x) { return sqrtf(x); }
GPU_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
GPU_DEVICE float smaller(float a, float b) { return fminf(a, b); }
#elif defined(GPU_BACKEND_HIP)
GPU_DEVICE float fast_exp(float x) { return __expf(x); }
GPU_DEVICE float fast_divide(float a, float b) { return a * __builtin_amdgcn_rcpf(b); }
GPU_DEVICE float log1p_of(float x) { return log1pf(x); }
GPU_DEVICE float sqrt_of(float x) { return sqrtf(x); }
GPU_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
GPU_DEVICE float smaller(float a, float b) { return fminf(a, b); }
#else
inline float fast_exp(float x) { return std::exp(x); }
inline float fast_divide(float a, float b) { return a / b; }
inline float log1p_of(float x) { return std::log1p(x); }
inline float sqrt_of(float x) { return std::sqrt(x); }
inline float larger(float a, float b) { return std::fmax(a, b); }
inline float smaller(float a, float b) { return std::fmin(a, b); }
#endif

GPU_DEVICE float infinity() { return bits_as<float>(0x7F800000); }

template <int W>
GPU_DEVICE float wave_sum(float v) {
  GPU_UNROLL for (int step = W / 2; step > 0; step /= 2) v += shfl_xor<W>(v, step);
  return v;
}

// Numbers as unsigned integers in the numbers' order; zeros are equal. NaN comes just below -Inf.
constexpr std::uint32_t kKeyOfMinusInf = 0x007FFFFF, kKeyOfNaN = kKeyOfMinusInf - 1, kKeyOfZero = 0x80000000;
GPU_DEVICE std::uint32_t order_key(float v) {
  if (v != v) return kKeyOfNaN;
  const std::uint32_t bits = float_bits(v + 0.0F);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

}  // namespace moecheck::gpu::inline MOECHECK_GPU_ON
