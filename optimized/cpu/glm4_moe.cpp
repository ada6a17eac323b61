#include "optimized/cpu/glm4_moe.h"

#include <algorithm>

#include "optimized/cpu/activation_row.h"
#include "optimized/cpu/decoder_rows.h"

namespace moecheck::MOECHECK_OPTIMIZED {

using reference::Glm4MoeLayerWeights;
using reference::Shape;

Glm4Moe::Glm4Moe(const reference::Glm4MoeConfig& config, const reference::Glm4MoeWeights& weights, DType dtype,
                 MoeFunction moe, CpuOptions cpu)
    : config_(config),
      weights_(weights),
      dtype_(dtype),
      moe_(std::move(moe)),
      cpu_(cpu),
      hidden_stride_(padded_columns(config.hidden)),
      inner_stride_(padded_columns(config.intermediate)),
      attention_(config, dtype, cpu) {}

void Glm4Moe::resize(std::int64_t rows) {
  // Grown buffers must start as zeros: GEMMs read whole vectors behind the last column.
  const auto grow = [](AlignedFloats& buffer, std::int64_t n) {
    buffer.resize(n);
    std::fill_n(buffer.data(), n, 0.0F);
  };
  const std::int64_t wide = rows + kRowBlock;
  for (AlignedFloats* b : {&x_, &normed_, &update_}) grow(*b, wide * hidden_stride_);
  grow(gate_up_, wide * h_stride(config_.intermediate));
  grow(inner_, wide * inner_stride_);
  grow(router_, wide * std::max<std::int64_t>(config_.experts, 1));
}

void Glm4Moe::trace(std::int64_t index, const char* name, std::int64_t rows, std::int64_t columns,
                    std::int64_t stride, const float* values) const {
  if (!trace_) return;
  std::vector<float> packed(static_cast<std::size_t>(rows * columns));
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(values + r * stride, columns, packed.data() + r * columns);
  trace_(index, name, rows, columns, packed.data());
}

void Glm4Moe::attention(std::int64_t index, const Glm4MoeLayerWeights& w, const RowBatch& batch, KvCache& cache) {
  const std::int64_t hidden = config_.hidden;
  for_row_blocks(cpu_.threads, batch.size(), [&](std::int64_t begin, std::int64_t rows) {
    for (std::int64_t r = begin; r < begin + rows; ++r)
      norm_row(x_.data() + r * hidden_stride_, w.input_norm, config_.rms_norm_eps, dtype_, hidden,
               normed_.data() + r * hidden_stride_);
  });
  trace(index, "attention.input", batch.size(), hidden, hidden_stride_, normed_.data());
  attention_.run(index, w.attention, normed_.data(), batch, cache, update_.data());
  trace(index, "attention.output", batch.size(), hidden, hidden_stride_, update_.data());
  const bool routed = !config_.is_dense(index);
  for_row_blocks(cpu_.threads, batch.size(), [&](std::int64_t begin, std::int64_t rows) {
    for (std::int64_t r = begin; r < begin + rows; ++r) {
      add_update(r);
      norm_row(x_.data() + r * hidden_stride_, w.post_norm, config_.rms_norm_eps, dtype_, hidden,
               normed_.data() + r * hidden_stride_);
    }
    if (routed)
      project(w.moe.router, normed_.data() + begin * hidden_stride_, hidden_stride_, rows,
              router_.data() + begin * config_.experts, config_.experts);
  });
}

void Glm4Moe::add_update(std::int64_t r) {
  float* x = x_.data() + r * hidden_stride_;
  float* u = update_.data() + r * hidden_stride_;
  round_row(dtype_, u, config_.hidden);
  for (std::int64_t j = 0; j < config_.hidden; ++j) x[j] += u[j];
  round_row(dtype_, x, config_.hidden);
}

void Glm4Moe::dense(const Glm4MoeLayerWeights& w, std::int64_t count) {
  const std::int64_t wide = h_stride(config_.intermediate);
  reference::ActivationOptions options;
  options.dtype = dtype_;
  options.round_silu = options.round_product =
      dtype_ == DType::kF32 ? reference::Rounding::kNone : reference::Rounding::kRound;
  const Activate activate = activate_row();
  for_row_blocks(cpu_.threads, count, [&](std::int64_t begin, std::int64_t rows) {
    project(w.dense.gate_up, normed_.data() + begin * hidden_stride_, hidden_stride_, rows,
            gate_up_.data() + begin * wide, wide);
    for (std::int64_t r = begin; r < begin + rows; ++r)
      activate({options, 1, dtype_ != DType::kF32}, gate_up_.data() + r * wide, config_.intermediate,
               inner_.data() + r * inner_stride_);
    project(w.dense.down, inner_.data() + begin * inner_stride_, inner_stride_, rows,
            update_.data() + begin * hidden_stride_, hidden_stride_);
  });
}

void Glm4Moe::moe(std::int64_t index, const Glm4MoeLayerWeights&, std::int64_t rows) {
  const std::int64_t hidden = config_.hidden;
  const Shape shape(rows, hidden);
  const auto n = static_cast<std::size_t>(rows * hidden);
  const ConstView logits{router_.data(), DType::kF32, Shape(rows, config_.experts)};
  wide_in_.resize(n), wide_out_.resize(n);
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(normed_.data() + r * hidden_stride_, hidden, wide_in_.data() + r * hidden);
  if (dtype_ == DType::kF32) {
    moe_(index, {wide_in_.data(), dtype_, shape}, logits, {wide_out_.data(), dtype_, shape});
  } else {
    narrow_in_.resize(n), narrow_out_.resize(n);
    const ConstView in{narrow_in_.data(), dtype_, shape};
    store_row()(wide_in_.data(), rows * hidden, {narrow_in_.data(), dtype_, shape}, 0);
    moe_(index, in, logits, {narrow_out_.data(), dtype_, shape});
    load_row()({narrow_out_.data(), dtype_, shape}, 0, rows * hidden, wide_out_.data());
  }
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(wide_out_.data() + r * hidden, hidden, update_.data() + r * hidden_stride_);
}

void Glm4Moe::layer(std::int64_t index, const Glm4MoeLayerWeights& w, const RowBatch& batch, KvCache& cache) {
  const std::int64_t rows = batch.size();
  attention(index, w, batch, cache);
  const bool dense_layer = config_.is_dense(index);
  trace(index, dense_layer ? "mlp.input" : "moe_block.input", rows, config_.hidden, hidden_stride_, normed_.data());
  if (!dense_layer) trace(index, "router.output", rows, config_.experts, config_.experts, router_.data());
  if (dense_layer)
    dense(w, rows);
  else
    moe(index, w, rows);
  trace(index, dense_layer ? "mlp.output" : "moe_block.output", rows, config_.hidden, hidden_stride_, update_.data());
  for (std::int64_t r = 0; r < rows; ++r) add_update(r);
}

void Glm4Moe::forward(std::span<const std::int32_t> ids, const RowBatch& batch, KvCache& cache, float* hidden) {
  const std::int64_t rows = batch.size();
  resize(rows);
  const LoadRow load = load_row();
  for (std::int64_t r = 0; r < rows; ++r)
    load(weights_.embed, ids[static_cast<std::size_t>(r)] * config_.hidden, config_.hidden,
         x_.data() + r * hidden_stride_);
  for (std::int64_t i = 0; i < config_.layers; ++i) layer(i, weights_.layers[static_cast<std::size_t>(i)], batch, cache);
  trace(-1, "norm.input", rows, config_.hidden, hidden_stride_, x_.data());
  for (std::int64_t r = 0; r < rows; ++r)
    norm_row(x_.data() + r * hidden_stride_, weights_.norm, config_.rms_norm_eps, dtype_, config_.hidden,
             hidden + r * config_.hidden);
  trace(-1, "norm.output", rows, config_.hidden, config_.hidden, hidden);
}

void Glm4Moe::draft(std::span<const std::int32_t> next_ids, const float* hidden, const RowBatch& batch,
                    KvCache& cache, float* out) {
  const std::int64_t rows = batch.size(), h = config_.hidden, stride = padded_columns(2 * h);
  const reference::MtpWeights& m = *weights_.mtp;
  resize(rows);
  both_.resize((rows + kRowBlock) * stride);
  std::fill_n(both_.data(), (rows + kRowBlock) * stride, 0.0F);
  const LoadRow load = load_row();
  std::vector<float> embedded(static_cast<std::size_t>(h));
  for (std::int64_t r = 0; r < rows; ++r) {
    load(m.embed, next_ids[static_cast<std::size_t>(r)] * h, h, embedded.data());
    norm_row(embedded.data(), m.embed_norm, config_.rms_norm_eps, dtype_, h, both_.data() + r * stride);
    norm_row(hidden + r * h, m.hidden_norm, config_.rms_norm_eps, dtype_, h, both_.data() + r * stride + h);
  }
  for_row_blocks(cpu_.threads, rows, [&](std::int64_t begin, std::int64_t count) {
    project(m.eh_proj, both_.data() + begin * stride, stride, count, x_.data() + begin * hidden_stride_,
            hidden_stride_);
    for (std::int64_t r = begin; r < begin + count; ++r) round_row(dtype_, x_.data() + r * hidden_stride_, h);
  });
  layer(config_.layers, m.layer, batch, cache);
  for (std::int64_t r = 0; r < rows; ++r)
    norm_row(x_.data() + r * hidden_stride_, m.norm, config_.rms_norm_eps, dtype_, h, out + r * h);
}

void Glm4Moe::logits(const float* hidden, std::int64_t n, bool of_draft, float* out) const {
  const ConstView head = of_draft ? weights_.mtp->head : weights_.head;
  AlignedFloats padded((n + 1) * hidden_stride_);
  std::fill_n(padded.data(), (n + 1) * hidden_stride_, 0.0F);
  for (std::int64_t r = 0; r < n; ++r)
    std::copy_n(hidden + r * config_.hidden, config_.hidden, padded.data() + r * hidden_stride_);
  for_row_blocks(cpu_.threads, n, [&](std::int64_t begin, std::int64_t rows) {
    project(head, padded.data() + begin * hidden_stride_, hidden_stride_, rows, out + begin * config_.vocab,
            config_.vocab);
  });
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
