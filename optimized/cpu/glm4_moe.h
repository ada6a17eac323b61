#pragma once
// The GLM-4-MoE decoder over a batch of rows of many sequences with a paged KV cache (reference/glm4_moe.h is the
// specification). The MoE block is the caller's: any implementation of it can be served.
//
// Every row's result is the same bits whatever else is in the batch, for any number of threads and however its prefix was
// split into calls, as long as the MoE block keeps that promise too.
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/options.h"
#include "optimized/cpu/attention.h"
#include "reference/glm4_moe.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// hidden_states [T, H] and out [T, H] in T, router_logits [T, E] f32.
using MoeFunction = std::function<void(std::int64_t layer, reference::ConstView hidden_states,
                                       reference::ConstView router_logits, reference::View out)>;

// Called with what each operator reads and writes, rows in fp32: for localize.
using TraceFunction = std::function<void(std::int64_t layer, const char* name, std::int64_t rows,
                                         std::int64_t columns, const float* values)>;

class Glm4Moe {
 public:
  // Weights in f32, or bf16 when dtype is bf16; they must outlive the model. T = dtype: activations are rounded to it after
  // every operator.
  Glm4Moe(const reference::Glm4MoeConfig& config, const reference::Glm4MoeWeights& weights,
          reference::DType dtype, MoeFunction moe, CpuOptions cpu);

  const reference::Glm4MoeConfig& config() const { return config_; }
  AttentionShape attention_shape() const { return {config_.heads, config_.kv_heads, config_.head_dim}; }
  std::int64_t cache_layers() const { return config_.layers + (weights_.mtp ? 1 : 0); }

  // hidden [T, H]: after the last norm. Writes the rows' keys and values.
  void forward(std::span<const std::int32_t> ids, const RowBatch& batch, KvCache& cache, float* hidden);
  // The MTP layer. Row r: hidden [T, H] of the token at positions[r], next_ids[r] the token after it; `out` [T, H] after its
  // last norm. Keys and values go to the layer behind the last.
  void draft(std::span<const std::int32_t> next_ids, const float* hidden, const RowBatch& batch, KvCache& cache,
             float* out);
  // hidden [n, H] -> logits [n, V] of the model's head, or of the MTP layer's.
  void logits(const float* hidden, std::int64_t n, bool of_draft, float* out) const;

  void set_trace(TraceFunction trace) { trace_ = std::move(trace); }

 private:
  void layer(std::int64_t index, const reference::Glm4MoeLayerWeights& w, const RowBatch& batch, KvCache& cache);
  void attention(std::int64_t index, const reference::Glm4MoeLayerWeights& w, const RowBatch& batch, KvCache& cache);
  void add_update(std::int64_t row);
  void dense(const reference::Glm4MoeLayerWeights& w, std::int64_t rows);
  void moe(std::int64_t index, const reference::Glm4MoeLayerWeights& w, std::int64_t rows);
  void resize(std::int64_t rows);
  void trace(std::int64_t index, const char* name, std::int64_t rows, std::int64_t columns, std::int64_t stride,
             const float* values) const;

  reference::Glm4MoeConfig config_;
  const reference::Glm4MoeWeights& weights_;
  reference::DType dtype_;
  MoeFunction moe_;
  CpuOptions cpu_;
  TraceFunction trace_;
  std::int64_t hidden_stride_, inner_stride_;
  Attention attention_;
  // x: the residual stream; update: what an operator adds to it; both: [embedding, hidden] of the MTP layer.
  AlignedFloats x_, normed_, gate_up_, inner_, update_, both_, router_;
  std::vector<std::uint16_t> narrow_in_, narrow_out_;
  std::vector<float> wide_in_, wide_out_;
};

}  // namespace moecheck::MOECHECK_OPTIMIZED
