#pragma once
// The first part of the gating kernels: a row's logits in registers, scores, choice scores. Semantics: reference/gating.h.
//
// A lane holds V experts, in runs of kRun that one load brings: expert(i) = (i / run) * run * W + lane * run + i % run. Registers
// behind the last expert hold -Inf, which scores 0 in all three functions.
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

template <int W, int V>
struct Layout {
  static constexpr int kRun = V % 4 == 0 ? 4 : 1;
  static constexpr int kRuns = V / kRun;
  static GPU_DEVICE int expert(int i) { return i / kRun * kRun * W + lane<W>() * kRun + i % kRun; }
};

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

// n numbers of `row` as f32; `fill` behind the last. `vectors`: runs of four at once.
template <int W, int V>
GPU_DEVICE void load_numbers(DType dtype, const void* p, std::int64_t first, int n, bool vectors, float fill,
                             float (&out)[V]) {
  using L = Layout<W, V>;
  const int bound = GPU_FAULT(kGpuTileBound) ? n + 1 : n;
  GPU_UNROLL for (int r = 0; r < L::kRuns; ++r) {
    const int e = L::expert(r * L::kRun);
    if constexpr (L::kRun == 4) {
      if (vectors && e + 4 <= n) {
        float* v = out + 4 * r;
        if (dtype == DType::kF32) {
          const Bytes16 four = load16(static_cast<const float*>(p) + first + e);
          GPU_UNROLL for (int j = 0; j < 4; ++j) v[j] = bits_as<float>(four.word[j]);
        } else {
          const Bytes8 four =
              *reinterpret_cast<const Bytes8*>(static_cast<const std::uint16_t*>(p) + first + e);
          GPU_UNROLL for (int j = 0; j < 4; ++j) v[j] =
              dtype == DType::kBF16 ? from_bf16(four.half[j]) : from_f16(four.half[j]);
        }
        continue;
      }
    }
    GPU_UNROLL for (int j = 0; j < L::kRun; ++j) out[r * L::kRun + j] =
        e + j < bound ? load_number(dtype, p, first + e + j) : fill;
  }
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
GPU_DEVICE float score_of(Scoring scoring, float x, Softmax s) {
  if (scoring == Scoring::kSigmoid) return fast_divide(1.0F, 1.0F + fast_exp(-x));
  if (scoring == Scoring::kSoftmax) return fast_divide(fast_exp(x - s.top), s.sum);
  return sqrt_of(larger(x, 0.0F) + log1p_of(fast_exp(-larger(x, -x))));
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
