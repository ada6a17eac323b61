#pragma once
// The gated activation between an expert's two GEMMs.
//
//   h [2I] -> g [I], u [I]      by layout
//   silu:        a = silu(g) * u,  silu(g) = g / (1 + exp(-g))
//   swiglu_oai:  a = g * sigmoid(1.702 g) * (u + 1)                                       gpt-oss
//   clamp        kBeforeSilu: g = min(g, L), u = clamp(u, -L, L), then silu               DeepSeek-V4, gpt-oss
//                kAfterSilu:  silu(g) = min(silu(g), L), u = clamp(u, -L, L)              sglang
//
// Integers stay integers: for g >= 32, 1 + exp(-g) is 1 in fp32 and silu(g) is exactly g; for g <= -128,
// exp(-g) overflows, or g exp(g) underflows, and silu(g) is exactly 0; silu(0) is 0.
// Roundings (to T): torch and the Triton kernels store silu(g) in T, then the product in T; fused kernels keep
// fp32.
// Source: sections 4.3 and 4.4 of the operator notes (vLLM activation_kernels.cu, sglang
// fused_moe_triton_kernels.py _swiglu_silu_clamp_mul, aiter).
#include <cstdint>
#include <string_view>
#include <vector>

#include "reference/bounded.h"
#include "reference/tensor.h"

namespace moecheck::reference {

// Rows of w13: [gate; up] (w1, w3), [up; gate] (trtllm, cutlass), gate and up alternating (gpt-oss).
enum class GateUpLayout : std::uint8_t { kGateUp, kUpGate, kInterleaved };
enum class Activation : std::uint8_t { kSilu, kSwigluOai };
enum class Clamp : std::uint8_t { kNone, kBeforeSilu, kAfterSilu };

std::string_view name(GateUpLayout layout);    // "gate_up", "up_gate", "interleaved"
std::string_view name(Activation activation);  // "silu", "swiglu_oai"
std::string_view name(Clamp clamp);            // "none", "before_silu", "after_silu"

struct ActivationOptions {
  GateUpLayout layout = GateUpLayout::kGateUp;
  Activation activation = Activation::kSilu;
  Clamp clamp = Clamp::kNone;
  double limit = 0;                           // L; a clamp with limit 0 is no clamp (aiter)
  double alpha = 1.702;                       // swiglu_oai
  DType dtype = DType::kBF16;                 // T
  Rounding round_silu = Rounding::kAny;       // silu(g), before the product
  Rounding round_product = Rounding::kRound;  // a; kNone where a quantizer reads it in fp32
};

// Row of w13 (element of h) that holds gate element i, and up element i.
std::int64_t gate_row(GateUpLayout layout, std::int64_t intermediate, std::int64_t i);
std::int64_t up_row(GateUpLayout layout, std::int64_t intermediate, std::int64_t i);

// silu in fp32, exact where the comment above says so.
Bounded silu_exact(const Bounded& g);
// a for one pair.
Bounded gated_activation(Bounded gate, Bounded up, const ActivationOptions& options);
// h [2I] -> a [I].
void gated_activation(const Bounded* h, std::int64_t intermediate, const ActivationOptions& options,
                      Bounded* a);
// The operator: gate_up [M, 2I] T -> [M * I], before the last rounding: round_product is ignored.
std::vector<Bounded> silu_and_mul(ConstView gate_up, const ActivationOptions& options);

}  // namespace moecheck::reference
