#include "optimized/cpu/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/paged_attention.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {

// Scores of one page's positions: sum_d q[d] k[d][position], d ascending.
HWY_INLINE void score_page(const float* q, const float* keys, std::int64_t dim, float scale, float* scores) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t j = 0; j < kPage; j += lanes) {
    VF even = hn::Zero(d), odd = hn::Zero(d);
    std::int64_t c = 0;
    for (; c + 2 <= dim; c += 2) {
      even = hn::MulAdd(hn::Set(d, q[c]), hn::Load(d, keys + c * kPage + j), even);
      odd = hn::MulAdd(hn::Set(d, q[c + 1]), hn::Load(d, keys + (c + 1) * kPage + j), odd);
    }
    if (c < dim) even = hn::MulAdd(hn::Set(d, q[c]), hn::Load(d, keys + c * kPage + j), even);
    hn::Store(hn::Mul(hn::Add(even, odd), hn::Set(d, scale)), d, scores + j);
  }
}

// Scores -> exp(score - largest); returns their sum. Scores behind the last position are -Inf.
HWY_INLINE float exponentials(float* scores, std::int64_t padded) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  VF largest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (std::int64_t j = 0; j < padded; j += lanes) largest = hn::Max(largest, hn::Load(d, scores + j));
  const VF top = hn::Set(d, hn::GetLane(hn::MaxOfLanes(d, largest)));
  VF sum = hn::Zero(d);
  for (std::int64_t j = 0; j < padded; j += lanes) {
    const VF e = exp(hn::Sub(hn::Load(d, scores + j), top));
    sum = hn::Add(sum, e);
    hn::Store(e, d, scores + j);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

void attend(KvCache& cache, const AttentionRow& row, float* scores, float* out) {
  const AttentionShape& shape = cache.shape();
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t dim = shape.head_dim, columns = shape.columns(), repeat = shape.heads / shape.kv_heads;
  const std::int64_t pages = (row.positions + kPage - 1) / kPage, padded = pages * kPage;
  const float scale = 1.0F / std::sqrt(static_cast<float>(fault(Fault::kScaleOfPaddedHead) ? columns : dim));
  for (std::int64_t head = 0; head < shape.heads; ++head) {
    const std::int64_t kv = fault(Fault::kKvHeadsInterleaved) ? head % shape.kv_heads : head / repeat;
    for (std::int64_t p = 0; p < pages; ++p)
      score_page(row.q + head * dim, cache.keys(row.layer, row.page_table[p]) + kv * dim * kPage, dim, scale,
                 scores + p * kPage);
    const std::int64_t seen = row.positions - (fault(Fault::kNewestPositionMasked) && row.positions > 1);
    for (std::int64_t j = seen; j < padded; ++j) scores[j] = -std::numeric_limits<float>::infinity();
    const float total = exponentials(scores, padded);
    const VF inverse = hn::Set(d, 1.0F / total);
    for (std::int64_t j = 0; j < padded; j += lanes) {
      VF w = hn::Mul(hn::Load(d, scores + j), inverse);
      if (row.round_bf16) w = round_bf16(w);
      hn::Store(w, d, scores + j);
    }
    for (std::int64_t c = 0; c < columns; c += lanes) {
      VF even = hn::Zero(d), odd = hn::Zero(d);
      for (std::int64_t p = 0; p < pages; ++p) {
        const float* values = cache.values(row.layer, row.page_table[p]) + kv * columns * kPage + c;
        // Not beyond the last position: what stands there may be another sequence's, or NaN, and 0 * NaN is NaN.
        const std::int64_t count =
            fault(Fault::kPageTailRead) ? kPage : std::min(kPage, row.positions - p * kPage);
        const auto add = [&](std::int64_t j, VF sum) {
          return hn::MulAdd(hn::Set(d, scores[p * kPage + j]), hn::Load(d, values + j * columns), sum);
        };
        std::int64_t j = 0;
        for (; j + 2 <= count; j += 2) even = add(j, even), odd = add(j + 1, odd);
        if (j < count) even = add(j, even);
      }
      float lanes_out[HWY_MAX_BYTES / sizeof(float)];
      hn::StoreU(hn::Add(even, odd), d, lanes_out);
      const std::int64_t count = std::min(lanes, dim - c);
      if (count > 0) std::memcpy(out + head * dim + c, lanes_out, static_cast<std::size_t>(count) * sizeof(float));
    }
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {

HWY_EXPORT(attend);
Attend attend_row() { return MOECHECK_DISPATCH(attend); }

KvCache::KvCache(const AttentionShape& shape, std::int64_t layers, std::int64_t pages)
    : shape_(shape), pages_(pages), page_floats_(shape.key_floats() + shape.value_floats()) {
  data_.resize(layers * pages * page_floats_);
  std::fill_n(data_.data(), layers * pages * page_floats_, 0.0F);
}

void KvCache::write(std::int64_t layer, std::int64_t page, std::int64_t slot, const float* k, const float* v) {
  float* keys_of = keys(layer, page);
  float* values_of = values(layer, page);
  const std::int64_t dim = shape_.head_dim, columns = shape_.columns();
  for (std::int64_t head = 0; head < shape_.kv_heads; ++head)
    for (std::int64_t c = 0; c < dim; ++c) {
      // The layout a reader of row-major pages would have written.
      const std::int64_t key = fault(Fault::kKvPageRowMajor) ? slot * dim + c : c * kPage + slot;
      keys_of[head * dim * kPage + key] = k[head * dim + c];
      values_of[(head * kPage + slot) * columns + c] = v[head * dim + c];
    }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
