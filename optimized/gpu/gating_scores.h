#pragma once
// The first part of the gating kernels: a row's logits in registers, scores, choice scores. Semantics: reference/gating.h.
//
// A lane holds V neighbouring experts, so that the order of lanes and registers is that of the experts. Registers behind the last
// expert hold -Inf, which scores 0 in all three functions.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/gating_args.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/math.h"
#include "optimized/gpu/number_formats.h"

namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h
using reference::DType;
using reference::NonFinite;
using reference::Scoring;

#if defined(GPU_BACKEND_HOST)
#define GATING_ROLLED
#else
#define GATING_ROLLED _Pragma("unroll 1")
#endif

template <int W, int V>
struct Layout {
  static GPU_DEVICE int expert(int i) { return lane<W>() * V + i; }
};

// x[i] = f(i, x[i]), four at a time in a loop that stays one, for an f of many instructions: the registers move past it.
template <class T, int V, class F>
GPU_DEVICE void each_of(T (&x)[V], F f) {
  constexpr int kStep = V % 4 == 0 ? 4 : V;
  GATING_ROLLED for (int first = 0; first < V; first += kStep) {
    T y[kStep];
    GPU_UNROLL for (int j = 0; j < kStep; ++j) y[j] = f(first + j, x[j]);
    GPU_UNROLL for (int i = 0; i + kStep < V; ++i) x[i] = x[i + kStep];
    GPU_UNROLL for (int j = 0; j < kStep; ++j) x[V - kStep + j] = y[j];
  }
}

GPU_DEVICE float round_dtype(DType dtype, float v) {
  if (dtype == DType::kBF16) return from_bf16(to_bf16(v));
  if (dtype == DType::kF16) return from_f16(to_f16(v));
  return v;
}

GPU_DEVICE float load_number(DType dtype, const void* p, std::int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(p)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(p)[i];
  return dtype == DType::kBF16 ? from_bf16(bits) : from_f16(bits);
}

struct alignas(8) Bytes8 {
  std::uint16_t half[4];
};

// n numbers from `first` on as f32; `fill` behind the last. `vectors`: four at once.
template <int W, int V>
GPU_DEVICE void load_numbers(DType dtype, const void* p, std::int64_t first, int n, bool vectors, float fill,
                             float (&out)[V]) {
  const int e0 = Layout<W, V>::expert(0), left = n - e0;
  const int bound = GPU_FAULT(kGpuTileBound) ? left + 1 : left;
  if (dtype == DType::kF32) {
    const float* q = static_cast<const float*>(p) + first + e0;
    if constexpr (V % 4 == 0) {
      if (vectors && left >= V) {
        GPU_UNROLL for (int i = 0; i < V; i += 4) {
          const Bytes16 four = load16(q + i);
          GPU_UNROLL for (int j = 0; j < 4; ++j) out[i + j] = bits_as<float>(four.word[j]);
        }
        return;
      }
    }
    GPU_UNROLL for (int i = 0; i < V; ++i) out[i] = i < bound ? q[i] : fill;
    return;
  }
  const std::uint16_t* q = static_cast<const std::uint16_t*>(p) + first + e0;
  std::uint16_t half[V];
  bool read = false;
  if constexpr (V % 4 == 0) {
    read = vectors && left >= V;
    if (read) GPU_UNROLL for (int i = 0; i < V; i += 4) {
        const Bytes8 four = *reinterpret_cast<const Bytes8*>(q + i);
        GPU_UNROLL for (int j = 0; j < 4; ++j) half[i + j] = four.half[j];
      }
  }
  if (!read) GPU_UNROLL for (int i = 0; i < V; ++i) half[i] = i < bound ? q[i] : std::uint16_t{0};
  if (dtype == DType::kBF16)
    GPU_UNROLL for (int i = 0; i < V; ++i) out[i] = from_bf16(half[i]);
  else
    GPU_UNROLL for (int i = 0; i < V; ++i) out[i] = from_f16(half[i]);
  if (left < V) GPU_UNROLL for (int i = 0; i < V; ++i) out[i] = i < bound ? out[i] : fill;
}

GPU_DEVICE bool is_nan(float v) { return v != v; }

// NaN becomes -Inf, whose score is 0; under kLogitZero NaN and infinities become 0.
GPU_DEVICE float finite_by_rule(NonFinite rule, float x) {
  if (rule == NonFinite::kLogitZero) return larger(x, -x) < infinity() ? x : 0.0F;
  return is_nan(x) ? -infinity() : x;
}

//   s = 1 / (1 + exp(-x)) | exp(x - max) / sum | sqrt(max(x, 0) + log1p(exp(-|x|)))
struct Softmax {
  float top = 0, sum = 1;
};
#if defined(GPU_BACKEND_CUDA)
// The bits of fast_divide(1, 1 + fast_exp(-x)), without its care for subnormal numbers: of those the sum loses one and the
// quotient, of a divisor above 2^126, is 0 in both.
GPU_DEVICE float sigmoid(float x) {
  float t, s;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(x * -1.44269504F));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(1.0F + t));
  return s;
}
#else
GPU_DEVICE float sigmoid(float x) { return fast_divide(1.0F, 1.0F + fast_exp(-x)); }
#endif
GPU_DEVICE float score_of(Scoring scoring, float x, Softmax s) {
  if (scoring == Scoring::kSigmoid) return sigmoid(x);
  if (scoring == Scoring::kSoftmax) return fast_divide(fast_exp(x - s.top), s.sum);
  return sqrt_of(larger(x, 0.0F) + log1p_of(fast_exp(-larger(x, -x))));
}

// All of a lane's: the functions of few instructions side by side.
template <int V>
GPU_DEVICE void score_all(Scoring scoring, float (&x)[V], Softmax s) {
  if (scoring == Scoring::kSigmoid)
    GPU_UNROLL for (int i = 0; i < V; ++i) x[i] = sigmoid(x[i]);
  else if (scoring == Scoring::kSoftmax)
    GPU_UNROLL for (int i = 0; i < V; ++i) x[i] = score_of(Scoring::kSoftmax, x[i], s);
  else
    each_of(x, [](int, float v) { return score_of(Scoring::kSqrtSoftplus, v, {}); });
}

// The row's maximum, and the sum of exp(x - max).
template <int W, int V>
GPU_DEVICE Softmax softmax_of(const float (&x)[V]) {
  Softmax s;
  float top = x[0];
  GPU_UNROLL for (int i = 1; i < V; ++i) top = larger(top, x[i]);
  const std::uint32_t key = wave_max<W>(order_key(top));
  s.top = bits_as<float>(key & 0x80000000 ? key & 0x7FFFFFFF : ~key);
  float sum = 0;
  GPU_UNROLL for (int i = 0; i < V; ++i) sum += fast_exp(x[i] - s.top);
  for (int step = (GPU_FAULT(kGpuWaveWidth32) ? 32 : W) / 2; step > 0; step /= 2)
    sum += shfl_xor<W>(sum, step);
  s.sum = sum;
  return s;
}

// The bias as it is added, of one expert.
GPU_DEVICE float bias_of(const GatingArgs& a, int e) {
  const float b = load_number(a.bias_dtype, a.bias, e);
  return a.bias_as_logits ? round_dtype(a.logits_dtype, b) : b;
}

// The score of one expert, from memory again: the same operations on the same numbers as in the row's registers.
GPU_DEVICE float score_again(const GatingArgs& a, std::int64_t row, int e, Softmax softmax) {
  float x = load_number(a.logits_dtype, a.router_logits, row * a.columns + e);
  if (a.bias_on_logits) x += bias_of(a, e);
  return round_dtype(a.score_dtype, score_of(a.scoring, finite_by_rule(a.non_finite, x), softmax));
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels
