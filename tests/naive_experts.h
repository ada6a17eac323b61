#pragma once
// The routed experts as someone would write them who has never seen the reference: fp32 loops, one rounding where the policy
// says so. With switches for the mistakes people make.
#include "reference/experts.h"
#include "tests/moe_test_support.h"

namespace moecheck::reference {

struct ExpertsCase {
  std::int64_t tokens = 2;
  ExpertsOptions options;
  WeightTensor x, w13, w2, w13_scale, w2_scale, weights, ids, expert_map;

  ExpertsInputs inputs() const {
    const auto view = [](const WeightTensor& t) { return t.bytes.empty() ? ConstView{} : t.view(); };
    return {x.view(),
            {w13.view(), w2.view(), view(w13_scale), view(w2_scale)},
            weights.view(),
            ids.view(),
            view(expert_map)};
  }
};

// Realistic sizes of numbers: unit activations, weights that keep them so.
inline ExpertsCase experts_case(const ExpertsOptions& options, DType weight_dtype, std::int64_t tokens,
                                Rng& rng, double missing = 0) {
  ExpertsCase c;
  c.tokens = tokens;
  c.options = options;
  const std::int64_t e = options.local_experts, h = options.hidden, i = options.intermediate;
  const bool fp8 = size_bytes(weight_dtype) == 1;
  const auto blocks = [](std::int64_t n) { return (n + 127) / 128; };
  const double scale13 = 1 / std::sqrt(static_cast<double>(h)),
               scale2 = 1 / std::sqrt(static_cast<double>(i));
  c.x = normal_tensor(options.dtype, Shape(tokens, h), rng);
  c.w13 = normal_tensor(weight_dtype, Shape(e, 2 * i, h), rng, fp8 ? 64 : 2 * scale13);
  c.w2 = normal_tensor(weight_dtype, Shape(e, h, i), rng, fp8 ? 64 : scale2);
  if (fp8) {
    c.w13_scale = WeightTensor(DType::kF32, Shape(e, blocks(2 * i), blocks(h)));
    c.w2_scale = WeightTensor(DType::kF32, Shape(e, blocks(h), blocks(i)));
    for (std::int64_t s = 0; s < c.w13_scale.shape.numel(); ++s)
      c.w13_scale.mutable_view().set(s, 2 * scale13 / 64 * uniform(rng, 0.5, 2));
    for (std::int64_t s = 0; s < c.w2_scale.shape.numel(); ++s)
      c.w2_scale.mutable_view().set(s, scale2 / 64 * uniform(rng, 0.5, 2));
  }
  c.ids = int_tensor(Shape(tokens, options.topk),
                     random_ids(rng, tokens, options.topk, options.experts, missing));
  c.weights = float_tensor(Shape(tokens, options.topk), random_weights(rng, tokens, options.topk));
  return c;
}

enum class Fault {
  kNone,
  kSwapGateUp,
  kInterleaved,
  kClampAfterSilu,
  kNoClamp,
  kWeightMissing,
  kWeightTwice,
  kWeightBeforeActivation,
  kWeightOfNextSlot,
  kDropLastSlot,
  kLastColumnsUnwritten,
  kMinusOneIsExpertZero,
  kScaleIndexSwapped,
  kScaleDivides,
  kOneScalePerRow,
  kReduceNarrow,
  kSkipGateUpRounding,
  kGlobalIdAsLocal,
};
struct Mistake {
  Fault fault;
  const char* words;
};

class NaiveExperts {
 public:
  NaiveExperts(const ExpertsCase& c, Fault fault = Fault::kNone) : c_(c), o_(c.options), fault_(fault) {}

  // Rounded to T, as an implementation stores it.
  std::vector<double> run() const {
    std::vector<double> out(static_cast<std::size_t>(c_.tokens * o_.hidden), 0);
    for (std::int64_t t = 0; t < c_.tokens; ++t) {
      std::vector<float> sum(static_cast<std::size_t>(o_.hidden), 0.0F);
      for (std::int64_t k = 0; k < o_.topk - (fault_ == Fault::kDropLastSlot ? 1 : 0); ++k)
        add_slot(t, k, sum);
      for (std::int64_t h = 0; h < o_.hidden; ++h) {
        const bool unwritten = fault_ == Fault::kLastColumnsUnwritten && h >= o_.hidden - 8;
        out[static_cast<std::size_t>(t * o_.hidden + h)] =
            unwritten ? 0 : narrow(sum[static_cast<std::size_t>(h)] * static_cast<float>(o_.reduce_scale));
      }
    }
    return out;
  }

 private:
  float narrow(float v) const { return static_cast<float>(round_to(o_.dtype, static_cast<double>(v))); }
  float narrow_if(float v, Rounding rounding) const { return rounding == Rounding::kRound ? narrow(v) : v; }

  std::int64_t local_expert(std::int64_t t, std::int64_t k) const {
    std::int64_t id = c_.ids.view().int_at(t * o_.topk + k);
    if (id < 0 && fault_ == Fault::kMinusOneIsExpertZero) id = 0;
    if (id < 0 || c_.expert_map.bytes.empty()) return id;
    if (fault_ == Fault::kGlobalIdAsLocal) return id % o_.local_experts;
    return c_.expert_map.view().int_at(id);
  }

  struct Quantized {
    std::vector<float> codes, scales;
  };
  Quantized quantize(const std::vector<float>& x) const {
    Quantized q;
    const bool reciprocal = o_.quant.division == QuantDivision::kReciprocal;
    for (std::size_t begin = 0; begin < x.size(); begin += 128) {
      const std::size_t end = std::min(x.size(), begin + 128);
      float amax = static_cast<float>(o_.quant.eps);
      for (std::size_t i = begin; i < end; ++i) amax = std::fmax(amax, std::fabs(x[i]));
      float s = reciprocal ? amax * (1.0F / 448.0F) : amax / 448.0F;
      if (o_.quant.scale_format == ScaleFormat::kUE8M0) s = std::exp2(std::ceil(std::log2(s)));
      q.scales.push_back(s);
      for (std::size_t i = begin; i < end; ++i) {
        const bool multiply = reciprocal && o_.quant.scale_format == ScaleFormat::kF32;
        const float v = multiply ? x[i] * (448.0F / amax) : x[i] / s;
        q.codes.push_back(static_cast<float>(round_to(DType::kE4M3FN, v, Overflow::kSaturate)));
      }
    }
    return q;
  }

  float block_scale_of(ConstView scale, std::int64_t e, std::int64_t n, std::int64_t k) const {
    std::int64_t row = n / 128, col = k / 128;
    if (fault_ == Fault::kScaleIndexSwapped) std::swap(row, col);
    if (fault_ == Fault::kOneScalePerRow) col = 0;
    const std::int64_t index = std::min(row * scale.shape[2] + col, scale.shape[1] * scale.shape[2] - 1);
    const float s = static_cast<float>(scale.at(e * scale.shape[1] * scale.shape[2] + index));
    return fault_ == Fault::kScaleDivides ? 1 / s : s;
  }

  // y = W[e] x, blocks of 128 with their scales where there are any.
  std::vector<float> gemm(ConstView w, ConstView scale, std::int64_t e, const std::vector<float>& x) const {
    const std::int64_t rows = w.shape[1], cols = w.shape[2];
    Quantized q;
    if (o_.fp8_activations) q = quantize(x);
    std::vector<float> y;
    for (std::int64_t n = 0; n < rows; ++n) {
      float sum = 0;
      for (std::int64_t begin = 0; begin < cols; begin += 128) {
        float block = 0;
        for (std::int64_t k = begin; k < std::min(cols, begin + 128); ++k)
          block += (o_.fp8_activations ? q.codes : x)[static_cast<std::size_t>(k)] *
                   static_cast<float>(w.at(e, n, k));
        if (o_.fp8_activations) block *= q.scales[static_cast<std::size_t>(begin / 128)];
        sum += scale ? block * block_scale_of(scale, e, n, begin) : block;
      }
      y.push_back(sum);
    }
    return y;
  }

  float activate(float gate, float up) const {
    const ActivationOptions& a = o_.activation;
    const float limit = static_cast<float>(a.limit);
    Clamp clamp = limit > 0 ? a.clamp : Clamp::kNone;
    if (fault_ == Fault::kClampAfterSilu) clamp = Clamp::kAfterSilu;
    if (fault_ == Fault::kNoClamp) clamp = Clamp::kNone;
    if (clamp != Clamp::kNone) up = std::fmin(std::fmax(up, -limit), limit);
    if (clamp == Clamp::kBeforeSilu) gate = std::fmin(gate, limit);
    const bool oai = a.activation == Activation::kSwigluOai;
    float s = gate / (1.0F + std::exp(-gate * (oai ? static_cast<float>(a.alpha) : 1.0F)));
    if (clamp == Clamp::kAfterSilu) s = std::fmin(s, limit);
    s = narrow_if(s, a.round_silu);
    return narrow_if(s * (oai ? up + 1.0F : up), a.round_product);
  }

  void add_slot(std::int64_t t, std::int64_t k, std::vector<float>& sum) const {
    const std::int64_t e = local_expert(t, k);
    if (e < 0) return;
    const std::int64_t next = fault_ == Fault::kWeightOfNextSlot ? (k + 1) % o_.topk : k;
    const float weight = static_cast<float>(c_.weights.view().at(t, next));
    std::vector<float> x, a;
    for (std::int64_t h = 0; h < o_.hidden; ++h) x.push_back(static_cast<float>(c_.x.view().at(t, h)));
    const ExpertWeights w = c_.inputs().weights;
    std::vector<float> h = gemm(w.w13, w.w13_scale, e, x);
    const bool before = fault_ == Fault::kWeightBeforeActivation || o_.router_weight == RouterWeight::kInput;
    for (float& v : h) {
      if (before) v *= weight;
      if (fault_ != Fault::kSkipGateUpRounding) v = narrow_if(v, o_.round_gate_up);
    }
    GateUpLayout layout = o_.activation.layout;
    if (fault_ == Fault::kSwapGateUp)
      layout = layout == GateUpLayout::kUpGate ? GateUpLayout::kGateUp : GateUpLayout::kUpGate;
    if (fault_ == Fault::kInterleaved) layout = GateUpLayout::kInterleaved;
    const std::int64_t n = o_.intermediate;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t gate = layout == GateUpLayout::kInterleaved ? 2 * i
                                : layout == GateUpLayout::kGateUp    ? i
                                                                     : n + i;
      const std::int64_t up = layout == GateUpLayout::kInterleaved ? 2 * i + 1
                              : layout == GateUpLayout::kGateUp    ? n + i
                                                                   : i;
      a.push_back(activate(h[static_cast<std::size_t>(gate)], h[static_cast<std::size_t>(up)]));
    }
    const std::vector<float> y = gemm(w.w2, w.w2_scale, e, a);
    for (std::int64_t i = 0; i < o_.hidden; ++i) {
      float v = y[static_cast<std::size_t>(i)];
      if (!before && o_.router_weight == RouterWeight::kOutput && fault_ != Fault::kWeightMissing)
        v *= weight;
      if (fault_ == Fault::kWeightTwice) v *= weight;
      float& s = sum[static_cast<std::size_t>(i)];
      s += narrow_if(v, o_.round_slot);
      if (o_.reduce.accumulate == Accumulate::kDtype || fault_ == Fault::kReduceNarrow) s = narrow(s);
    }
  }

  const ExpertsCase& c_;
  const ExpertsOptions& o_;
  Fault fault_;
};

}  // namespace moecheck::reference
