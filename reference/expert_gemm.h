#pragma once
// The GEMM of one expert in the references: rows of a stored weight against the few activation rows routed to
// that expert.
//
//   y[j, n] = sum_k x[j, k] w[n, k]                                           x exact or bounded
//   y[j, n] = sum_b s_w[n/128, b] sum_{k in b} x[j, k] q_w[n, k]              fp8 weights alone
//   y[j, n] = sum_b s_x[j, b] s_w[n/128, b] sum_{k in b} q_x[j, k] q_w[n, k]  fp8 w8a8
//
// A weight row is decoded once for all activation rows: decoding costs as much as a dot product.
#include <cstdint>
#include <span>
#include <vector>

#include "reference/fp8_block.h"

namespace moecheck::reference {

// An activation row, prepared.
struct GemmRow {
  DotLeft left;                 // x, or the numbers of its codes
  std::vector<Bounded> scales;  // [ceil(k / 128)] when quantized, else empty
};
// x [k]; quantized when `quant` is given.
void prepare_row(const Bounded* x, std::int64_t k, const Fp8QuantOptions* quant, GemmRow& row);

// All rows of matrix `e` of w [E, N, K], one at a time; scale [E, ceil(N/128), ceil(K/128)] or
// absent. out[j] receives y[j, 0..N).
void gemm_rows(ConstView w, ConstView scale, std::int64_t e, std::span<const GemmRow* const> activations,
               std::span<Bounded* const> out);

// n elements from element `begin` on. Every stored weight format fits fp32 (f64 is refused).
void decode_row(ConstView w, std::int64_t begin, std::int64_t n, float* out);

}  // namespace moecheck::reference
