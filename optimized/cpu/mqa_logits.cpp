#include "optimized/cpu/mqa_logits.h"

#include <algorithm>
#include <cstring>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/mqa_logits_plan.h"
#include "optimized/cpu/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimized/cpu/mqa_logits.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE {

constexpr int kHeadsAtOnce = 4, kVectorsAtOnce = 2;

// codes [d][kChunkTokens] -> the same in fp32.
void decode_keys(DType fp8, const std::uint8_t* codes, std::int64_t n, float* HWY_RESTRICT out) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(DF()));
  const bool fnuz = (fp8 == DType::kE4M3FNUZ) != fault(Fault::kLogitsOtherFp8);
  const VF least = hn::Set(DF(), !fault(Fault::kLogitsTinyKeys) ? 0.0F : fnuz ? 0x1p-7F : 0x1p-6F);
  for (std::int64_t i = 0; i < n * kChunkTokens; i += lanes) {
    const VF v = fnuz ? StoredE4M3<true>::load(codes + i) : StoredE4M3<false>::load(codes + i);
    hn::Store(fault(Fault::kLogitsTinyKeys) ? hn::IfThenElseZero(hn::Ge(hn::Abs(v), least), v) : v, DF(), out + i);
  }
}

// total += sum over kHeads heads of relu(q_h . k) w_h, for the tokens of kVectorsAtOnce vectors, one in each lane.
template <int kHeads>
HWY_INLINE void add_heads(const KeyChunk& keys, const float* q, const float* weights, std::int64_t token,
                          VF* total) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t dim = keys.head_dim;
  VF sums[kHeads][kVectorsAtOnce];
  MOECHECK_UNROLL
  for (auto& head : sums) MOECHECK_UNROLL
  for (VF& v : head) v = hn::Zero(d);
  for (std::int64_t c = 0; c < dim; ++c) {
    const float* k = keys.values + c * kChunkTokens + token;
    VF tokens[kVectorsAtOnce];
    MOECHECK_UNROLL
    for (int v = 0; v < kVectorsAtOnce; ++v) tokens[v] = hn::Load(d, k + v * lanes);
    MOECHECK_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const VF x = hn::Set(d, q[h * dim + c]);
      MOECHECK_UNROLL
      for (int v = 0; v < kVectorsAtOnce; ++v) sums[h][v] = hn::MulAdd(x, tokens[v], sums[h][v]);
    }
  }
  MOECHECK_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    const VF w = hn::Set(d, weights[h]);
    MOECHECK_UNROLL
    for (int v = 0; v < kVectorsAtOnce; ++v) {
      VF dot = keys.dot_in_bf16 != fault(Fault::kLogitsDotRounded) ? round_bf16(sums[h][v]) : sums[h][v];
      if (!fault(Fault::kLogitsReluMissing)) dot = hn::Max(dot, hn::Zero(d));
      if (keys.scale_first) dot = hn::Mul(dot, hn::Load(d, keys.scales + token + v * lanes));
      total[v] = hn::MulAdd(dot, w, total[v]);
    }
  }
}

// Logits of one row for all tokens of the chunk.
void row_logits(const KeyChunk& keys, const float* q, const float* weights, std::int64_t heads,
                float* HWY_RESTRICT out) {
  const DF d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t token = 0; token < kChunkTokens; token += kVectorsAtOnce * lanes) {
    VF total[kVectorsAtOnce];
    for (VF& v : total) v = hn::Zero(d);
    std::int64_t h = 0;
    for (; h + kHeadsAtOnce <= heads; h += kHeadsAtOnce)
      add_heads<kHeadsAtOnce>(keys, q + h * keys.head_dim, weights + h, token, total);
    for (; h < heads && !fault(Fault::kLogitsHeadsTail); ++h)
      add_heads<1>(keys, q + h * keys.head_dim, weights + h, token, total);
    for (int v = 0; v < kVectorsAtOnce; ++v) {
      const VF scale = hn::Load(d, keys.scales + token + v * lanes);
      if (!keys.scale_first && !fault(Fault::kLogitsScaleMissing)) total[v] = hn::Mul(total[v], scale);
      if (fault(Fault::kLogitsScaleTwice)) total[v] = hn::Mul(total[v], scale);
      hn::StoreU(total[v], d, out + token + v * lanes);
    }
  }
}

void store_row(const float* in, std::int64_t n, View view, std::int64_t first) {
  store_floats(in, n, view, first);
}
void load_query(ConstView q, std::int64_t first, std::int64_t n, float* out) {
  load_floats(q, first, n, out);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::MOECHECK_OPTIMIZED {
HWY_EXPORT(decode_keys);
HWY_EXPORT(row_logits);
HWY_EXPORT(store_row);
HWY_EXPORT(load_query);

namespace {

using reference::LogitsTail;
using reference::MqaLogitsInputs;
using reference::MqaLogitsOptions;
using reference::TokenRange;

struct Scratch {
  explicit Scratch(const MqaLogitsOptions& o)
      : row(static_cast<std::size_t>(o.layout.head_dim)),
        columns(row.size() * kChunkTokens),
        values(o.layout.head_dim * kChunkTokens),
        scales(kChunkTokens),
        logits(kChunkTokens) {}
  std::vector<std::uint8_t> row, columns;  // codes of a token, and of the chunk with tokens side by side
  AlignedFloats values, scales, logits;
  std::vector<float> weights;
};

class MqaLogitsRun {
 public:
  MqaLogitsRun(const MqaLogitsOptions& o, const MqaLogitsInputs& in, View logits, CpuOptions cpu)
      : o_(o),
        in_(in),
        plan_(o, in),
        logits_(logits),
        threads_(std::max(1, cpu.threads)),
        query_(in.q.shape.numel()) {
    for (int i = 0; i < threads_; ++i) scratch_.emplace_back(o);
  }

  void run() {
    const std::int64_t width = o_.heads * o_.layout.head_dim;
    parallel_for(threads_, o_.rows(), [&](std::int64_t r, int) {
      MOECHECK_DISPATCH(load_query)(in_.q, r * width, width, query_.data() + r * width);
      if (o_.tail == LogitsTail::kMinusInf && !fault(Fault::kLogitsFillMissing)) fill(r);
    });
    parallel_for(threads_, static_cast<std::int64_t>(plan_.chunks().size()), [&](std::int64_t i, int worker) {
      chunk(plan_.chunks()[static_cast<std::size_t>(i)], scratch_[static_cast<std::size_t>(worker)]);
    });
    if (fault(Fault::kLogitsRowOverrun)) overrun();
  }

  void topk(View indices) {
    parallel_for(threads_, o_.rows(), [&](std::int64_t r, int) {
      const TokenRange& row = plan_.row(r);
      std::int32_t* out = indices.as<std::int32_t>() + r * o_.topk;
      const std::int64_t n = fault(Fault::kTopkPastLength) ? o_.width - (row.first - row.base) : row.size();
      select_topk(logits_, r * o_.row_stride + row.first - row.base, n, o_.topk, out);
      for (std::int64_t i = 0; i < o_.topk; ++i)
        if (fault(Fault::kTopkAbsolute) && out[i] >= 0) out[i] += static_cast<std::int32_t>(row.first);
    });
  }

 private:
  void fill(std::int64_t r) {
    const TokenRange& row = plan_.row(r);
    for (std::int64_t col = 0; col < o_.width; ++col)
      if (col < row.first - row.base || col >= row.last - row.base)
        logits_.set(r * o_.row_stride + col, -INFINITY);
  }

  // Keys of the chunk: token by token to rows of codes, then one row per channel, then fp32.
  KeyChunk load_keys(const TokenChunk& chunk, Scratch& s) {
    const std::int64_t dim = o_.layout.head_dim;
    std::fill(s.columns.begin(), s.columns.end(), std::uint8_t{0});
    for (std::int64_t t = 0; t < kChunkTokens; ++t) {
      s.scales[t] = 0;
      if (chunk.first + t >= chunk.last || !plan_.read(chunk, chunk.first + t, s.row.data(), s.scales[t]))
        continue;
      std::uint8_t* column = s.columns.data() + t;
      for (std::int64_t c = 0; c < dim; ++c) column[c * kChunkTokens] = s.row[static_cast<std::size_t>(c)];
    }
    MOECHECK_DISPATCH(decode_keys)(o_.layout.dtype, s.columns.data(), dim, s.values.data());
    KeyChunk keys{s.values.data(), s.scales.data(), dim, o_.dot_in_bf16};
    keys.scale_first = fault(Fault::kLogitsOrderByBatch) && o_.requests > 2;
    return keys;
  }

  void chunk(const TokenChunk& chunk, Scratch& s) {
    const KeyChunk keys = load_keys(chunk, s);
    for (std::int64_t r = chunk.first_row; r < chunk.first_row + chunk.rows; ++r) {
      const TokenRange& row = plan_.row(r);
      const std::int64_t begin = std::max(chunk.first, row.first), end = std::min(chunk.last, row.last);
      if (begin >= end) continue;
      MOECHECK_DISPATCH(row_logits)
      (keys, query_.data() + r * o_.heads * o_.layout.head_dim, weights_of(r, s), o_.heads, s.logits.data());
      MOECHECK_DISPATCH(store_row)
      (s.logits.data() + (begin - chunk.first), end - begin, logits_, r * o_.row_stride + begin - row.base);
    }
  }

  const float* weights_of(std::int64_t r, Scratch& s) {
    if (fault(Fault::kLogitsWeightsOfRequest)) r /= o_.next_n;
    const float* w = in_.weights.as<float>() + r * o_.heads;
    if (!fault(Fault::kLogitsWeightsBf16)) return w;
    s.weights.resize(static_cast<std::size_t>(o_.heads));
    std::transform(w, w + o_.heads, s.weights.begin(), [](float x) { return round_bf16(x); });
    return s.weights.data();
  }

  // The stores of a row's last block, as if rows had room for whole blocks.
  void overrun() {
    const std::int64_t b = o_.layout.block_size, all = o_.rows() * o_.row_stride;
    for (std::int64_t r = 0; r < o_.rows(); ++r)
      for (std::int64_t col = o_.width; col < (plan_.row(r).last + b - 1) / b * b; ++col)
        if (r * o_.row_stride + col < all) logits_.set(r * o_.row_stride + col, 0);
  }

  const MqaLogitsOptions& o_;
  const MqaLogitsInputs& in_;
  const MqaLogitsPlan plan_;
  const View logits_;
  const int threads_;
  AlignedFloats query_;
  std::vector<Scratch> scratch_;
};

}  // namespace

void mqa_logits(const MqaLogitsOptions& o, const MqaLogitsInputs& in, View logits, View topk_indices,
                CpuOptions options) {
  MqaLogitsRun run(o, in, logits, options);
  run.run();
  if (o.topk > 0) run.topk(topk_indices);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
#endif
