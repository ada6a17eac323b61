#pragma once
// Some rows of one expert's matrix against the expert's tokens. Internal.
//
//   out_j[n] = sum_k x_j[k] w[n, k]                                                       f32, bf16, f16
//   out_j[n] = sum_b s_x[j, b] s_w[n/128, b] sum_{k in b} x_j[k] w[n, k]                  fp8, blocks of 128
//
// Lane l of an accumulator adds the elements k = l, l + lanes, ... (of a block) in order, then the lanes are
// added as a tree, then the blocks in order: the same for every element, however rows and tokens are grouped.
#include <cstdint>

#include "optimized/cpu/rounding.h"

namespace moecheck::MOECHECK_OPTIMIZED {

struct GemmMatrix {
  ConstView weight;  // [N, K] of one expert
  ConstView scale;   // [ceil(N/128), ceil(K/128)] of this expert, or absent
};
struct GemmToken {
  const float* x = nullptr;       // [K], zeros up to padded_columns(K)
  const float* scales = nullptr;  // [ceil(K/128)], absent: 1
  float* out = nullptr;           // [N]
};
using GemmRows = void (*)(const GemmMatrix& w, std::int64_t begin, std::int64_t end, const GemmToken* tokens,
                          std::int64_t count);
GemmRows gemm_rows();

}  // namespace moecheck::MOECHECK_OPTIMIZED
