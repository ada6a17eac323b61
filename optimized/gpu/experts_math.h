#pragma once
// What the experts' kernels share: stored numbers, and the gated activation.
#include "optimized/gpu/experts_args.h"
#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/math.h"
#include "optimized/gpu/number_formats.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h
using reference::Activation;
using reference::Clamp;
using reference::DType;
using reference::GateUpLayout;

template <bool kFnuz>
struct StoredE4M3 {
  using Bits = std::uint8_t;
  static GPU_DEVICE float load(std::uint8_t bits) { return kFnuz ? from_e4m3fnuz(bits) : from_e4m3fn(bits); }
};

GPU_DEVICE float rounded(DType dtype, float v) {
  if (dtype == DType::kBF16) return from_bf16(to_bf16(v));
  return dtype == DType::kF16 ? from_f16(to_f16(v)) : v;
}
GPU_DEVICE float load_as_float(DType dtype, const void* p, std::int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(p)[i];
  if (dtype == DType::kE4M3FN) return from_e4m3fn(static_cast<const std::uint8_t*>(p)[i]);
  if (dtype == DType::kE4M3FNUZ) return from_e4m3fnuz(static_cast<const std::uint8_t*>(p)[i]);
  const std::uint16_t bits = static_cast<const std::uint16_t*>(p)[i];
  return dtype == DType::kBF16 ? from_bf16(bits) : from_f16(bits);
}
GPU_DEVICE void store_float(DType dtype, void* p, std::int64_t i, float v) {
  if (dtype == DType::kF32)
    static_cast<float*>(p)[i] = v;
  else
    static_cast<std::uint16_t*>(p)[i] = dtype == DType::kBF16 ? to_bf16(v) : to_f16(v);
}

// Loops of rare cases: unrolled they are most of a kernel's code.
#if defined(GPU_BACKEND_HOST)
#define EXPERTS_ROLLED
#else
#define EXPERTS_ROLLED _Pragma("unroll 1")
#endif

// Numbers in 16 bytes.
template <class Stored>
constexpr int kPacked = 16 / static_cast<int>(sizeof(typename Stored::Bits));

// kPacked elements from `k` on of a row of `depth`: zeros behind its end.
template <class Stored>
GPU_DEVICE Bytes16 load_packed(const typename Stored::Bits* row, int k, int depth, bool vectors) {
  Bytes16 bytes = {};
  if (vectors) {  // depth is a multiple of kPacked
    if (k < depth) bytes = load16(row + k);
    return bytes;
  }
  typename Stored::Bits numbers[kPacked<Stored>] = {};
  EXPERTS_ROLLED for (int i = 0; i < kPacked<Stored>; ++i) if (k + i < depth) numbers[i] = row[k + i];
  __builtin_memcpy(&bytes, numbers, sizeof bytes);
  return bytes;
}

// Number i of them.
template <class Stored>
GPU_DEVICE float unpacked(const Bytes16& bytes, int i) {
  using Bits = typename Stored::Bits;
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(Bits));
  const std::uint32_t word = bytes.word[i / kPerWord];
  if constexpr (kPerWord == 1)
    return bits_as<float>(word);
  else
    return Stored::load(static_cast<Bits>(word >> (i % kPerWord * (32 / kPerWord))));
}

// ---- the gated activation

GPU_DEVICE int gate_row(const ActivationArgs& a, int intermediate, int i) {
  if (a.layout == GateUpLayout::kInterleaved) return 2 * i;
  return a.layout == GateUpLayout::kGateUp ? i : intermediate + i;
}
GPU_DEVICE int up_row(const ActivationArgs& a, int intermediate, int i) {
  if (a.layout == GateUpLayout::kInterleaved) return 2 * i + 1;
  return a.layout == GateUpLayout::kGateUp ? intermediate + i : i;
}

// NaN stays.
GPU_DEVICE float at_most(float v, float limit) { return v > limit ? limit : v; }
GPU_DEVICE float at_least(float v, float limit) { return v < limit ? limit : v; }

// a of one gate and up, both as the GEMM gives them. An IEEE division: g / (1 + exp(-g)) is a number where the sum is past 2^126.
GPU_DEVICE float gated_activation(const ActivationArgs& a, float weight, float gate, float up) {
  gate *= weight, up *= weight;
  if (a.round_input) gate = rounded(a.dtype, gate), up = rounded(a.dtype, up);
  if (a.clamp != Clamp::kNone)
    up = GPU_FAULT(kGpuExpertsUpClamp) ? at_most(up, a.limit) : at_least(at_most(up, a.limit), -a.limit);
  if (a.clamp == Clamp::kBeforeSilu) gate = at_most(gate, a.limit);
  float v = gate / (1.0F + fast_exp(-(gate * a.alpha)));
  if (a.clamp == Clamp::kAfterSilu) v = at_most(v, a.limit);
  if (a.round_silu) v = rounded(a.dtype, v);
  if (a.activation == Activation::kSwigluOai) up += 1.0F;
  v *= up;
  return a.round_product ? rounded(a.dtype, v) : v;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
