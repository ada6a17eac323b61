#include "optimized/cpu/expert_gemm.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/expert_gemm.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {

constexpr std::int64_t kBlock = 128;
// Tiles of kRowsAtOnce x kTokensAtOnce elements, and of kRowsAlone rows for one token. AVX-512 has 32
// registers for accumulators, weights and one activation; the others have 16.
#if HWY_TARGET == HWY_AVX3
constexpr int kTokensAtOnce = 4, kRowsAlone = 8;
#else
constexpr int kTokensAtOnce = 2, kRowsAlone = 4;
#endif
constexpr int kRowsAtOnce = 4;

template <int kRows, int kTokens>
struct Accumulators {
  VF v[kRows][kTokens];
  HWY_INLINE Accumulators() {
    MOECHECK_UNROLL
    for (auto& row : v) MOECHECK_UNROLL
    for (VF& a : row) a = hn::Zero(DF());
  }
  HWY_INLINE void add(const VF* w, const GemmToken* tokens, std::int64_t k) {
    MOECHECK_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const VF x = hn::Load(DF(), tokens[t].x + k);
      MOECHECK_UNROLL
      for (int r = 0; r < kRows; ++r) v[r][t] = hn::MulAdd(w[r], x, v[r][t]);
    }
  }
};

// Weights come from memory at most once. The hardware follows few streams, and none over the end of a short
// row: the rows of the next tile, which lie behind this one's, are asked for in time.
template <int kRows, class Lane>
HWY_INLINE void prefetch_next(const Lane* w, std::int64_t depth, std::int64_t k) {
  MOECHECK_UNROLL
  for (int r = 0; r < kRows; ++r) __builtin_prefetch(w + (r + kRows) * depth + k, 0, 2);
}

// Elements [begin, end) of kRows weight rows that are `depth` apart.
template <class Stored, int kRows, int kTokens>
HWY_INLINE void add_products(const typename Stored::Lane* w, std::int64_t depth, std::int64_t begin,
                             std::int64_t end, const GemmToken* tokens, Accumulators<kRows, kTokens>& sums) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(DF()));
  VF rows[kRows];
  std::int64_t k = begin;
  for (; k + lanes <= end; k += lanes) {
    MOECHECK_UNROLL
    for (int r = 0; r < kRows; ++r) rows[r] = Stored::load(w + r * depth + k);
    prefetch_next<kRows>(w, depth, k);
    sums.add(rows, tokens, k);
  }
  if (k == end || fault(Fault::kGemmDropsTail)) return;
  MOECHECK_UNROLL
  for (int r = 0; r < kRows; ++r)
    rows[r] = load_tail<Stored>(w + r * depth + k, static_cast<std::size_t>(end - k));
  sums.add(rows, tokens, k);
}

HWY_INLINE float weight_scale(ConstView scale, std::int64_t n, std::int64_t k) {
  const std::int64_t columns = scale.shape[1];
  std::int64_t row = n / kBlock, column = k / kBlock;
  if (fault(Fault::kScaleBlockSwapped))
    row = std::min(k / kBlock, scale.shape[0] - 1), column = std::min(n / kBlock, columns - 1);
  if (fault(Fault::kScaleBlockOffByOne)) column = std::min(column + 1, columns - 1);
  const float s = scale.as<float>()[row * columns + column];
  return fault(Fault::kBlockScaleDivided) ? 1 / s : s;
}

// kRows x kTokens elements of the product, n the first row.
template <class Stored, int kRows, int kTokens>
HWY_INLINE void plain_tile(const GemmMatrix& m, std::int64_t n, const GemmToken* tokens) {
  const std::int64_t depth = m.weight.shape[1];
  Accumulators<kRows, kTokens> sums;
  add_products<Stored>(m.weight.as<typename Stored::Lane>() + n * depth, depth, 0, depth, tokens, sums);
  MOECHECK_UNROLL
  for (int t = 0; t < kTokens; ++t) MOECHECK_UNROLL
  for (int r = 0; r < kRows; ++r) tokens[t].out[n + r] = hn::GetLane(hn::SumOfLanes(DF(), sums.v[r][t]));
}

// A block's products are summed before its scales multiply: codes are small integers times a power of two, so
// that this sum is often exact, and what cancels in it leaves no trace.
template <class Stored, int kRows, int kTokens>
HWY_INLINE void scaled_tile(const GemmMatrix& m, std::int64_t n, const GemmToken* tokens) {
  const std::int64_t depth = m.weight.shape[1];
  const auto* w = m.weight.as<typename Stored::Lane>() + n * depth;
  float sums[kRows][kTokens] = {};
  for (std::int64_t k = 0; k < depth; k += kBlock) {
    Accumulators<kRows, kTokens> block;
    add_products<Stored>(w, depth, k, std::min(depth, k + kBlock), tokens, block);
    MOECHECK_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float row_scale = weight_scale(m.scale, n + r, k);
      MOECHECK_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const float sum = hn::GetLane(hn::SumOfLanes(DF(), block.v[r][t]));
        sums[r][t] += (tokens[t].scales != nullptr ? sum * tokens[t].scales[k / kBlock] : sum) * row_scale;
      }
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) tokens[t].out[n + r] = sums[r][t];
}

template <class Stored, bool kScaled, int kRows, int kTokens>
void gemm_tile(const GemmMatrix& m, std::int64_t n, const GemmToken* tokens) {
  if constexpr (kScaled)
    scaled_tile<Stored, kRows, kTokens>(m, n, tokens);
  else
    plain_tile<Stored, kRows, kTokens>(m, n, tokens);
}

template <class Stored, bool kScaled, int kRows>
HWY_INLINE void gemm_tokens(const GemmMatrix& m, std::int64_t n, const GemmToken* tokens,
                            std::int64_t count) {
  for (; count >= kTokensAtOnce; tokens += kTokensAtOnce, count -= kTokensAtOnce)
    gemm_tile<Stored, kScaled, kRows, kTokensAtOnce>(m, n, tokens);
  if (count == 1) gemm_tile<Stored, kScaled, kRows, 1>(m, n, tokens);
  if constexpr (kTokensAtOnce > 2) {
    if (count == 2) gemm_tile<Stored, kScaled, kRows, 2>(m, n, tokens);
    if (count == 3) gemm_tile<Stored, kScaled, kRows, 3>(m, n, tokens);
  }
}

// The tokens are the inner loop: a few weight rows stay in the cache for all of them.
template <class Stored, bool kScaled>
void gemm_rows_as(const GemmMatrix& m, std::int64_t begin, std::int64_t end, const GemmToken* tokens,
                  std::int64_t count) {
  std::int64_t n = begin;
  if (count == 1)
    for (; n + kRowsAlone <= end; n += kRowsAlone) gemm_tile<Stored, kScaled, kRowsAlone, 1>(m, n, tokens);
  for (; n + kRowsAtOnce <= end; n += kRowsAtOnce)
    gemm_tokens<Stored, kScaled, kRowsAtOnce>(m, n, tokens, count);
  for (; n < end; ++n) gemm_tokens<Stored, kScaled, 1>(m, n, tokens, count);
}

void gemm(const GemmMatrix& m, std::int64_t begin, std::int64_t end, const GemmToken* tokens,
          std::int64_t count) {
  switch (m.weight.dtype) {
    case DType::kBF16:
      return gemm_rows_as<StoredBF16, false>(m, begin, end, tokens, count);
    case DType::kF16:
      return gemm_rows_as<StoredF16, false>(m, begin, end, tokens, count);
    case DType::kE4M3FN:
      return gemm_rows_as<StoredE4M3<false>, true>(m, begin, end, tokens, count);
    case DType::kE4M3FNUZ:
      return gemm_rows_as<StoredE4M3<true>, true>(m, begin, end, tokens, count);
    default:
      return gemm_rows_as<StoredF32, false>(m, begin, end, tokens, count);
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {
HWY_EXPORT(gemm);
GemmRows gemm_rows() { return MOECHECK_DISPATCH(gemm); }
}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
