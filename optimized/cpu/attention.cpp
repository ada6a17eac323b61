#include "optimized/cpu/attention.h"

#include <algorithm>
#include <cmath>

#include "optimized/cpu/decoder_rows.h"

namespace moecheck::MOECHECK_OPTIMIZED {

using reference::AttentionWeights;

Attention::Attention(const reference::Glm4MoeConfig& config, DType dtype, CpuOptions cpu)
    : config_(config),
      dtype_(dtype),
      cpu_(cpu),
      x_stride_(padded_columns(config.hidden)),
      qkv_stride_(padded_columns(config.q_dim() + 2 * config.kv_dim())),
      head_stride_(padded_columns(config.q_dim())),
      half_((fault(Fault::kRotaryFull) ? config.head_dim : config.rotary_dim()) / 2) {
  for (std::int64_t p = 0; p < config.max_positions; ++p)
    for (std::int64_t i = 0; i < half_; ++i) {
      const auto frequency = static_cast<float>(
          std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(half_)));
      const double angle = static_cast<double>(static_cast<float>(p) * frequency);
      cos_.push_back(round_dtype(dtype, static_cast<float>(std::cos(angle))));
      sin_.push_back(round_dtype(dtype, static_cast<float>(std::sin(angle))));
    }
}

void Attention::norm_and_rotate(float* heads, std::int64_t count, ConstView norm, std::int64_t position) const {
  const std::int64_t dim = config_.head_dim;
  const float* cos = cos_.data() + position * half_;
  const float* sin = sin_.data() + position * half_;
  for (std::int64_t h = 0; h < count; ++h) {
    float* head = heads + h * dim;
    if (norm && !fault(Fault::kQkNormSkipped)) norm_row(head, norm, config_.rms_norm_eps, dtype_, dim, head);
    for (std::int64_t i = 0; i < half_; ++i) {
      const bool pairs = fault(Fault::kRotaryInterleaved);
      float& a = head[pairs ? 2 * i : i];
      float& b = head[pairs ? 2 * i + 1 : half_ + i];
      const float x = a, y = b;
      a = round_dtype(dtype_, x * cos[i] - y * sin[i]);
      b = round_dtype(dtype_, y * cos[i] + x * sin[i]);
    }
  }
}

// Projections, per-head norms, rotation; keys and values into the cache.
void Attention::project_rows(std::int64_t layer, const AttentionWeights& w, const float* x, const RowBatch& batch,
                             KvCache& cache, std::int64_t begin, std::int64_t rows) {
  const std::int64_t q_dim = config_.q_dim(), kv_dim = config_.kv_dim();
  float* qkv = qkv_.data() + begin * qkv_stride_;
  const float* in = x + begin * x_stride_;
  project(w.q, in, x_stride_, rows, qkv, qkv_stride_);
  project(w.k, in, x_stride_, rows, qkv + q_dim, qkv_stride_);
  project(w.v, in, x_stride_, rows, qkv + q_dim + kv_dim, qkv_stride_);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* row = qkv + r * qkv_stride_;
    add_bias(w.q_bias, row, q_dim);
    add_bias(w.k_bias, row + q_dim, kv_dim);
    add_bias(w.v_bias, row + q_dim + kv_dim, kv_dim);
    round_row(dtype_, row, q_dim + 2 * kv_dim);
    const auto i = static_cast<std::size_t>(begin + r);
    const std::int64_t position = batch.positions[i];
    norm_and_rotate(row, config_.heads, w.q_norm, position);
    norm_and_rotate(row + q_dim, config_.kv_heads, w.k_norm, position);
    cache.write(layer, batch.page_tables[i][position / kPage], position % kPage, row + q_dim, row + q_dim + kv_dim);
  }
}

void Attention::run(std::int64_t layer, const AttentionWeights& w, const float* x, const RowBatch& batch,
                    KvCache& cache, float* out) {
  const std::int64_t count = batch.size();
  qkv_.resize((count + 1) * qkv_stride_);
  heads_.resize((count + 1) * head_stride_);
  std::fill_n(heads_.data(), (count + 1) * head_stride_, 0.0F);  // GEMMs read whole vectors behind the last column
  for_row_blocks(cpu_.threads, count, [&](std::int64_t begin, std::int64_t rows) {
    project_rows(layer, w, x, batch, cache, begin, rows);
  });
  const Attend attend = attend_row();
  for_row_blocks(cpu_.threads, count, [&](std::int64_t begin, std::int64_t rows) {
    std::int64_t longest = 0;
    for (std::int64_t r = begin; r < begin + rows; ++r)
      longest = std::max(longest, batch.positions[static_cast<std::size_t>(r)] + 1);
    AlignedFloats scores(score_floats(longest));
    for (std::int64_t r = begin; r < begin + rows; ++r) {
      const auto i = static_cast<std::size_t>(r);
      float* heads = heads_.data() + r * head_stride_;
      attend(cache,
             {layer, batch.page_tables[i], batch.positions[i] + 1, qkv_.data() + r * qkv_stride_,
              dtype_ == DType::kBF16},
             scores.data(), heads);
      round_row(dtype_, heads, config_.q_dim());
      if (fault(Fault::kNanAttention) && batch.positions[i] % kPage == kPage - 1) heads[0] = std::nanf("");
    }
    project(w.o, heads_.data() + begin * head_stride_, head_stride_, rows, out + begin * x_stride_, x_stride_);
  });
}

void attention(const reference::Glm4MoeConfig& config, const AttentionWeights& weights, ConstView x, View out,
               std::int64_t chunk, CpuOptions cpu) {
  const std::int64_t tokens = x.shape[0], hidden = config.hidden, stride = padded_columns(hidden);
  const std::int64_t pages = (tokens + kPage - 1) / kPage;
  if (tokens == 0) return;
  Attention run(config, x.dtype, cpu);
  KvCache cache({config.heads, config.kv_heads, config.head_dim}, 1, pages);
  std::vector<std::int32_t> table;
  for (std::int64_t p = pages; p-- > 0;) table.push_back(static_cast<std::int32_t>(p));
  AlignedFloats in((tokens + 1) * stride), result((tokens + 1) * stride);
  std::fill_n(in.data(), (tokens + 1) * stride, 0.0F);
  for (std::int64_t t = 0; t < tokens; ++t) load_row()(x, t * hidden, hidden, in.data() + t * stride);
  const std::int64_t step = chunk > 0 ? chunk : tokens;
  for (std::int64_t begin = 0; begin < tokens; begin += step) {
    const std::int64_t count = std::min(step, tokens - begin);
    std::vector<std::int64_t> positions;
    for (std::int64_t i = 0; i < count; ++i) positions.push_back(begin + i);
    const std::vector<const std::int32_t*> tables(static_cast<std::size_t>(count), table.data());
    run.run(0, weights, in.data() + begin * stride, {positions, tables}, cache, result.data() + begin * stride);
  }
  for (std::int64_t t = 0; t < tokens; ++t) store_row()(result.data() + t * stride, hidden, out, t * hidden);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
