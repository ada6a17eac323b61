#pragma once
// fp8 w8a8: activations quantized per token and group of 128, weights per 128x128 block.
//
//   amax_b = max(max |x_i| over the group, eps)        s_b = amax_b / 448        q_i = e4m3(x_i / s_b)
//   y[m, n] = sum_b s_a[m, b] s_w[n/128, b] sum_{i in b} q_a[m, i] q_w[n, i]     the last group may be partial
//
// Implementations differ in how they divide (codes differ on 0.03% of N(0,1) data) and in the scale's format.
// With kDivide or kReciprocal the fp32 operations are IEEE, so scales and codes of exact data are exact; with
// kAny the codes near a rounding midpoint carry both neighbours.
// UE8M0: s_b is the power of two >= amax_b / 448.
// NaN: amax ignores it. The code is -448 when nan_saturates (fmaxf of vLLM's clamp), else NaN.
// Source: section 4.5 of the operator notes (vLLM per_token_group_quant.cu, sglang sgl-kernel, DeepGEMM,
// aiter).
#include <cstdint>
#include <string_view>
#include <vector>

#include "reference/bounded.h"
#include "reference/tensor.h"

namespace moecheck::reference {

//   kDivide      s = amax / 448,            q = x / s              vLLM
//   kReciprocal  s = amax * fp32(1 / 448),  q = x * (448 / amax)   sglang AOT
//   kAny         either, and approximate division
enum class QuantDivision : std::uint8_t { kDivide, kReciprocal, kAny };
enum class ScaleFormat : std::uint8_t { kF32, kUE8M0 };
std::string_view name(QuantDivision division);  // "divide", "reciprocal", "any"
std::string_view name(ScaleFormat format);      // "f32", "ue8m0"

struct Fp8QuantOptions {
  DType dtype = DType::kE4M3FN;  // 448; e4m3fnuz: 240
  std::int64_t group = 128;
  double eps = 1e-10;  // floor of amax (as an fp32 number)
  QuantDivision division = QuantDivision::kDivide;
  ScaleFormat scale_format = ScaleFormat::kF32;
  bool nan_saturates = false;
};

struct QuantizedRow {
  std::vector<Bounded> codes;   // [n] the numbers the codes stand for
  std::vector<Bounded> scales;  // [ceil(n / group)]
  bool exact = false;           // every code has bound 0
};
// x [n], exact or bounded. `out` is reused to spare allocations.
void quantize_fp8(const Bounded* x, std::int64_t n, const Fp8QuantOptions& options, QuantizedRow& out);

// Scale of weight element (n, k): scale [.., ceil(N/128), ceil(K/128)] at expert e.
inline double block_scale(ConstView scale, std::int64_t e, std::int64_t n, std::int64_t k) {
  return scale.at(e, n / 128, k / 128);
}

}  // namespace moecheck::reference
