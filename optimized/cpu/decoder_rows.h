#pragma once
// Rows of a decoder's activations in fp32: norms, projections, rounding to the model's dtype. Internal.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "optimized/cpu/combine_row.h"
#include "optimized/cpu/expert_gemm.h"
#include "optimized/cpu/rounding.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {

inline constexpr std::int64_t kRowBlock = 16;  // rows of one task

inline void round_row(DType dtype, float* row, std::int64_t n) {
  if (dtype == DType::kF32) return;
  for (std::int64_t i = 0; i < n; ++i) row[i] = round_dtype(dtype, row[i]);
}

// Sums in eight interleaved parts, then as a tree: the same order whatever the row's neighbours.
inline float sum_of_squares(const float* x, std::int64_t n) {
  float part[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) part[j] += x[i + j] * x[i + j];
  for (; i < n; ++i) part[i % 8] += x[i] * x[i];
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

inline void norm_row(const float* x, ConstView weight, double eps, DType dtype, std::int64_t n, float* out) {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const float scale = 1.0F / std::sqrt(mean + static_cast<float>(eps));
  const LoadRow load = load_row();
  float w[64];
  for (std::int64_t i = 0; i < n; i += 64) {
    const std::int64_t count = std::min<std::int64_t>(64, n - i);
    load(weight, i, count, w);
    for (std::int64_t j = 0; j < count; ++j) out[i + j] = round_dtype(dtype, x[i + j] * scale) * w[j];
  }
  round_row(dtype, out, n);
}

// rows [begin, end) of x times all rows of `weight`, to out + column.
inline void project(ConstView weight, const float* x, std::int64_t x_stride, std::int64_t rows, float* out,
             std::int64_t out_stride) {
  GemmToken tokens[kRowBlock];
  for (std::int64_t r = 0; r < rows; ++r) tokens[r] = {x + r * x_stride, nullptr, out + r * out_stride};
  gemm_rows()({weight, {}}, 0, weight.shape[0], tokens, rows);
}

inline void add_bias(ConstView bias, float* row, std::int64_t n) {
  if (!bias) return;
  float b[64];
  const LoadRow load = load_row();
  for (std::int64_t i = 0; i < n; i += 64) {
    const std::int64_t count = std::min<std::int64_t>(64, n - i);
    load(bias, i, count, b);
    for (std::int64_t j = 0; j < count; ++j) row[i + j] += b[j];
  }
}

template <class F>
void for_row_blocks(int threads, std::int64_t rows, F&& body) {
  const std::int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  parallel_for(threads, blocks, [&](std::int64_t b, int) {
    body(b * kRowBlock, std::min(rows, (b + 1) * kRowBlock) - b * kRowBlock);
  });
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
