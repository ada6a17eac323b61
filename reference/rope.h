#pragma once
// Rotary position embedding of the rotated channels of one head, x [dim].
//
//   neox   y[i]  = x[i]  c[i] - x[i+h]  s[i]      y[i+h]  = x[i+h]  c[i] + x[i]  s[i]       h = dim / 2, i < h
//   gptj   y[2i] = x[2i] c[i] - x[2i+1] s[i]      y[2i+1] = x[2i+1] c[i] + x[2i] s[i]
//
// c, s: cosine and sine of the token's position, [dim / 2]. Tables of the full width dim are indexed by the channel of y instead;
// models fill them with each number twice, and nothing here relies on that.
// Sources: vLLM csrc/pos_encoding_kernels.cu; aiter fusions/fused_kv_cache.py; GPT-J's and GPT-NeoX's own code.
#include <cstdint>
#include <string_view>

#include "reference/bounded.h"

namespace moecheck::reference {

enum class RopeStyle : std::uint8_t { kNeox, kGptj };
std::string_view name(RopeStyle style);  // "neox", "gptj"

//   kPerOp   both products and their sum are rounded to dtype: operands of that dtype in Triton, c10::BFloat16 in vLLM
//   kStored  fp32 inside, the result is rounded to dtype: a rotation of its own, before the step that reads it
//   kOnce    fp32 inside, and handed on as fp32: fused kernels that round where they store (aiter's HIP kernel, upcast_operand)
//   kAny     any of these, and mixtures: compilers may keep excess precision
enum class RopeRounding : std::uint8_t { kPerOp, kStored, kOnce, kAny };

struct RopeOptions {
  RopeStyle style = RopeStyle::kNeox;
  std::int64_t dim = 64;    // even
  bool full_table = false;  // c and s have dim numbers, not dim / 2
  RopeRounding rounding = RopeRounding::kOnce;
  DType dtype = DType::kBF16;  // that is rounded to; f32: nowhere
};

// y[channel] = x[channel] c[table] + sign x[partner] s[table]
struct RopeTerm {
  std::int64_t partner = 0, table = 0;
  bool negative = false;
};
RopeTerm rope_term(const RopeOptions& options, std::int64_t channel);

// In place.
void rope(const RopeOptions& options, const Bounded* cos, const Bounded* sin, Bounded* x);

}  // namespace moecheck::reference
