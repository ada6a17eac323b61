#include "reference/glm4_moe.h"

#include <algorithm>
#include <cmath>

#include "reference/expert_gemm.h"
#include "reference/gating_policies.h"
#include "reference/rope.h"

namespace moecheck::reference {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// What an operator stores on the way, in T: exact numbers stay, fp32 stays; bf16 leaves open whether it rounds.
Bounded stored(DType dtype, const Bounded& b) {
  return dtype == DType::kF32 ? b : round_to(dtype, b, Rounding::kAny);
}

// sum_i a_i b_i of bounded numbers, in any order.
Bounded bounded_dot(const Bounded* a, const Bounded* b, std::int64_t n) {
  double value = 0, proven = 0, variance = 0, magnitude = 0, squares = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double x = std::fabs(a[i].value), y = std::fabs(b[i].value);
    value += a[i].value * b[i].value;
    proven += x * b[i].proven + y * a[i].proven + a[i].proven * b[i].proven;
    variance += x * x * b[i].sigma * b[i].sigma + y * y * a[i].sigma * a[i].sigma;
    magnitude += (x + a[i].proven) * (y + b[i].proven);
    squares += x * x * y * y;
  }
  const double steps = static_cast<double>(n) + 1;
  proven += steps * kU32 / (1 - steps * kU32) * magnitude + steps * kFlushed32;
  variance += kU32 * kU32 * steps * (value * value + squares) / 3;
  return {value, std::min(std::sqrt(variance) + kFlushed32, proven), proven};
}

// One row: x * (1 / sqrt(mean(x^2) + eps)) * weight.
void norm_row(const Bounded* x, ConstView weight, double eps, DType dtype, std::int64_t n, Bounded* out) {
  const Bounded squares = bounded_dot(x, x, n);
  const Bounded mean = rounded({squares.value / static_cast<double>(n), squares.sigma / static_cast<double>(n),
                                squares.proven / static_cast<double>(n)});
  const Bounded root = sqrt(mean + rounded(Bounded::exact(eps)));
  for (std::int64_t i = 0; i < n; ++i)
    out[i] = stored(dtype, x[i] / root) * Bounded::exact(weight.at(i));
}

std::vector<Bounded> row_of(ConstView x, std::int64_t t) {
  std::vector<Bounded> row(at(x.shape[1]));
  for (std::int64_t i = 0; i < x.shape[1]; ++i) row[at(i)] = Bounded::exact(x.at(t, i));
  return row;
}

std::vector<double> numbers_of(ConstView x, std::int64_t t) {
  std::vector<double> row(at(x.shape[1]));
  for (std::int64_t i = 0; i < x.shape[1]; ++i) row[at(i)] = x.at(t, i);
  return row;
}

void linear_row(const DotLeft& x, ConstView weight, ConstView bias, DType dtype, Bounded* out) {
  const std::int64_t columns = weight.shape[1];
  std::vector<float> w(at(columns));
  for (std::int64_t n = 0; n < weight.shape[0]; ++n) {
    decode_row(weight, n * columns, columns, w.data());
    out[n] = dot(x, w.data());
    if (bias) out[n] = out[n] + Bounded::exact(bias.at(n));
    out[n] = stored(dtype, out[n]);
  }
}

// cos and sin of pos * theta^(-2i / rotary_dim). The angle is a product of two fp32 numbers, the second a power
// that libraries compute within a few ulps: its error grows with the position.
struct Rotation {
  std::vector<Bounded> cos, sin;  // [rotary_dim / 2]
};
Rotation rotation(const Glm4MoeConfig& config, std::int64_t position) {
  Rotation r;
  const std::int64_t dim = config.rotary_dim();
  for (std::int64_t i = 0; i < dim / 2; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    const double error = 8 * kU32 * angle;
    const auto bounded = [&](double value, double slope) {
      const double e = position == 0 ? 0 : std::fabs(slope) * error + error * error / 2 + 4 * kU32;
      return Bounded{value, e, e};
    };
    r.cos.push_back(bounded(std::cos(angle), std::sin(angle)));
    r.sin.push_back(bounded(std::sin(angle), std::cos(angle)));
  }
  return r;
}

void rotate(const Rotation& r, DType dtype, Bounded* head) {
  std::vector<Bounded> cos, sin;
  for (const Bounded& b : r.cos) cos.push_back(stored(dtype, b));
  for (const Bounded& b : r.sin) sin.push_back(stored(dtype, b));
  RopeOptions o;
  o.dim = static_cast<std::int64_t>(2 * cos.size());
  o.rounding = RopeRounding::kAny;
  o.dtype = dtype;
  rope(o, cos.data(), sin.data(), head);
}

// exp of a number <= 0 that is known within its bound: 4 ulps, as sigmoid's (bounded.h).
Bounded exp_bounded(const Bounded& x) {
  const double value = std::exp(x.value);
  const double relative = std::expm1(x.proven) + (8 + 2 * std::fabs(x.value)) * kU32;
  const double noise = std::min(relative, std::expm1(x.sigma) + (4 + std::fabs(x.value)) * kU32);
  return {value, value * noise + kTiny32, value * relative + kFlushed32};
}

// Rows of q, k and v after bias, norm and rotation.
struct Projected {
  std::vector<Bounded> q, k, v;  // [T * q_dim], [T * kv_dim]
};

Projected project(const Glm4MoeConfig& c, const AttentionWeights& w, ConstView x) {
  const std::int64_t tokens = x.shape[0];
  Projected p{std::vector<Bounded>(at(tokens * c.q_dim())), std::vector<Bounded>(at(tokens * c.kv_dim())),
              std::vector<Bounded>(at(tokens * c.kv_dim()))};
  const auto heads = [&](Bounded* rows, std::int64_t count, ConstView norm, const Rotation& r) {
    for (std::int64_t h = 0; h < count; ++h) {
      Bounded* head = rows + h * c.head_dim;
      if (norm) {
        norm_row(head, norm, c.rms_norm_eps, x.dtype, c.head_dim, head);
        for (std::int64_t i = 0; i < c.head_dim; ++i) head[i] = stored(x.dtype, head[i]);
      }
      rotate(r, x.dtype, head);
    }
  };
  for (std::int64_t t = 0; t < tokens; ++t) {
    const DotLeft left(numbers_of(x, t).data(), x.shape[1]);
    linear_row(left, w.q, w.q_bias, x.dtype, &p.q[at(t * c.q_dim())]);
    linear_row(left, w.k, w.k_bias, x.dtype, &p.k[at(t * c.kv_dim())]);
    linear_row(left, w.v, w.v_bias, x.dtype, &p.v[at(t * c.kv_dim())]);
    const Rotation r = rotation(c, t);
    heads(&p.q[at(t * c.q_dim())], c.heads, w.q_norm, r);
    heads(&p.k[at(t * c.kv_dim())], c.kv_heads, w.k_norm, r);
  }
  return p;
}

// softmax(q k^T / sqrt(d)) v of one query head over positions 0..t; out [head_dim].
void attend(const Glm4MoeConfig& c, const Projected& p, std::int64_t t, std::int64_t head, DType dtype,
            Bounded* out) {
  const std::int64_t d = c.head_dim, kv = head / (c.heads / c.kv_heads);
  const Bounded scale = rounded(Bounded::exact(1 / std::sqrt(static_cast<double>(d))), 2);
  std::vector<Bounded> weights;
  double largest = -INFINITY;
  for (std::int64_t j = 0; j <= t; ++j) {
    const Bounded s = bounded_dot(&p.q[at(t * c.q_dim() + head * d)], &p.k[at(j * c.kv_dim() + kv * d)], d);
    weights.push_back(stored(dtype, s * scale));
    largest = std::max(largest, weights.back().value);
  }
  // Any shift gives the same quotient; an honest one is near the largest score.
  for (Bounded& w : weights) w = exp_bounded(w - Bounded::exact(largest));
  const Bounded total = sum(weights.data(), t + 1);
  for (Bounded& w : weights) w = stored(dtype, w / total);
  std::vector<Bounded> column(weights.size());
  for (std::int64_t i = 0; i < d; ++i) {
    for (std::int64_t j = 0; j <= t; ++j) column[at(j)] = p.v[at(j * c.kv_dim() + kv * d + i)];
    out[i] = stored(dtype, bounded_dot(weights.data(), column.data(), t + 1));
  }
}

}  // namespace

std::int64_t Glm4MoeConfig::rotary_dim() const {
  return static_cast<std::int64_t>(static_cast<double>(head_dim) * partial_rotary_factor + 1e-9);
}

std::optional<std::string> refusal(const Glm4MoeConfig& c) {
  const auto need = [](bool holds, const std::string& what) -> std::optional<std::string> {
    return holds ? std::nullopt : std::optional(what);
  };
  const auto text = [](const char* name, std::int64_t value) {
    return std::string(name) + "=" + std::to_string(value);
  };
  for (const auto& [name, value] : {std::pair{"vocab_size", c.vocab}, {"hidden_size", c.hidden},
                                    {"num_hidden_layers", c.layers}, {"num_attention_heads", c.heads},
                                    {"num_key_value_heads", c.kv_heads}, {"head_dim", c.head_dim},
                                    {"max_position_embeddings", c.max_positions}})
    if (value < 1) return text(name, value) + " must be at least 1";
  if (c.heads % c.kv_heads != 0)
    return text("num_attention_heads", c.heads) + " is not a multiple of " +
           text("num_key_value_heads", c.kv_heads);
  if (c.rotary_dim() < 0 || c.rotary_dim() > c.head_dim || c.rotary_dim() % 2 != 0)
    return "partial_rotary_factor gives " + std::to_string(c.rotary_dim()) + " rotated dimensions of " +
           text("head_dim", c.head_dim) + ": it must be even, and at most all";
  if (c.first_dense > 0 && c.intermediate < 1) return text("intermediate_size", c.intermediate) + " must be at least 1";
  if (c.first_dense >= c.layers && c.mtp_layers == 0) return std::nullopt;
  if (c.experts < 1 || c.topk < 1 || c.topk > c.experts)
    return text("num_experts_per_tok", c.topk) + " does not fit " + text("n_routed_experts", c.experts);
  if (c.groups < 1 || c.experts % c.groups != 0 || c.topk_group < 1 || c.topk_group > c.groups)
    return text("n_group", c.groups) + ", " + text("topk_group", c.topk_group) + " do not fit " +
           text("n_routed_experts", c.experts);
  return need(c.moe_intermediate >= 1 && c.shared_experts >= 0,
              "moe_intermediate_size and n_shared_experts must be positive");
}

std::vector<Bounded> rms_norm(ConstView x, ConstView weight, double eps) {
  std::vector<Bounded> out(at(x.shape.numel()));
  for (std::int64_t t = 0; t < x.shape[0]; ++t)
    norm_row(row_of(x, t).data(), weight, eps, x.dtype, x.shape[1], &out[at(t * x.shape[1])]);
  return out;
}

std::vector<Bounded> linear(ConstView x, ConstView weight) {
  std::vector<Bounded> out(at(x.shape[0] * weight.shape[0]));
  for (std::int64_t t = 0; t < x.shape[0]; ++t)
    linear_row(DotLeft(numbers_of(x, t).data(), x.shape[1]), weight, {}, DType::kF32,
               &out[at(t * weight.shape[0])]);
  return out;
}

std::vector<Bounded> gated_mlp(ConstView x, const MlpWeights& weights) {
  const std::int64_t hidden = x.shape[1], inner = weights.gate_up.shape[0] / 2;
  std::vector<Bounded> out(at(x.shape[0] * hidden)), h(at(2 * inner)), a(at(inner));
  for (std::int64_t t = 0; t < x.shape[0]; ++t) {
    linear_row(DotLeft(numbers_of(x, t).data(), hidden), weights.gate_up, {}, x.dtype, h.data());
    for (std::int64_t i = 0; i < inner; ++i)
      a[at(i)] = stored(x.dtype, stored(x.dtype, silu(h[at(i)])) * h[at(inner + i)]);
    linear_row(DotLeft(a.data(), inner), weights.down, {}, DType::kF32, &out[at(t * hidden)]);
  }
  return out;
}

std::vector<Bounded> attention(const Glm4MoeConfig& c, const AttentionWeights& w, ConstView x) {
  const Projected p = project(c, w, x);
  std::vector<Bounded> out(at(x.shape[0] * x.shape[1])), heads(at(c.q_dim()));
  for (std::int64_t t = 0; t < x.shape[0]; ++t) {
    for (std::int64_t h = 0; h < c.heads; ++h) attend(c, p, t, h, x.dtype, &heads[at(h * c.head_dim)]);
    linear_row(DotLeft(heads.data(), c.q_dim()), w.o, {}, DType::kF32, &out[at(t * x.shape[1])]);
  }
  return out;
}

MoeBlockResult glm4_moe_block(const Glm4MoeConfig& c, const MoeWeights& weights, ConstView x,
                              ConstView router_logits) {
  MoeBlockOptions o;
  o.gating.experts = c.experts, o.gating.groups = c.groups, o.gating.topk_group = c.topk_group;
  o.gating.topk = c.topk;
  o.gating.scoring = Scoring::kSigmoid;
  o.gating.renormalize = c.norm_topk_prob;
  o.gating.routed_scaling_factor = c.routed_scaling_factor;
  o.gating.logits_dtype = DType::kF32;
  o.gating.has_bias = true, o.gating.bias_dtype = DType::kF32;
  o.gating.policy = find_gating_preset("hf_deepseek_v3")->policy;
  o.experts.hidden = c.hidden, o.experts.intermediate = c.moe_intermediate;
  o.experts.dtype = x.dtype;
  const Rounding open = x.dtype == DType::kF32 ? Rounding::kNone : Rounding::kAny;
  o.experts.round_gate_up = o.experts.round_slot = open;
  o.experts.activation.dtype = x.dtype;
  o.experts.activation.round_silu = o.experts.activation.round_product = open;
  o.combine.dtype = x.dtype;
  o.combine.plan = ScalePlan::of(ScalePlace::kTopkWeights);
  o.combine.routed_scaling_factor = c.routed_scaling_factor;
  o.combine.weights_applied = true;
  o.combine.round_reduced = o.combine.round_scaled = open;
  o.shared_experts = c.shared_experts;
  MoeBlockInputs in;
  in.hidden_states = x, in.router_logits = router_logits, in.e_score_correction_bias = weights.bias;
  in.experts = {weights.w13, weights.w2, {}, {}};
  in.shared_w13 = weights.shared.gate_up, in.shared_w2 = weights.shared.down;
  return moe_block(in, o);
}

}  // namespace moecheck::reference
