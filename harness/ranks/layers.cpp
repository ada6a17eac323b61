#include "harness/ranks/layers.h"

#include <fmt/format.h>

#include <cmath>

#include "harness/case.h"
#include "harness/random.h"

namespace moecheck::harness::ranks {
namespace {

using reference::DType;

std::vector<float> normals(std::uint64_t seed, const std::string& stream, std::int64_t n, double scale) {
  const Random random(seed, stream);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(scale * random.normal(i));
  return values;
}

}  // namespace

std::string_view name(Split split) {
  constexpr std::string_view names[] = {"even", "uneven", "last"};
  return names[static_cast<std::size_t>(split)];
}

reference::GatingOptions gating_options(const LayersOptions& options) {
  reference::GatingOptions o;
  o.experts = options.experts;
  o.topk = options.topk;
  return o;
}

reference::ExpertsOptions experts_options(const LayersOptions& options, std::int64_t local_experts) {
  reference::ExpertsOptions o;
  o.hidden = options.hidden;
  o.intermediate = options.intermediate;
  o.topk = 1;
  o.experts = o.local_experts = local_experts;
  o.router_weight = reference::RouterWeight::kNone;
  o.activation.round_silu = reference::Rounding::kNone;
  o.reduce.order = reference::ReduceOrder::kSlot;
  return o;
}

reference::CombineOptions combine_options(const LayersOptions& options) {
  reference::CombineOptions o;
  o.reduce.order = reference::ReduceOrder::kSlot;
  o.plan = reference::ScalePlan::of(reference::ScalePlace::kSharedAddAlpha);
  o.routed_scaling_factor = options.routed_scaling_factor;
  o.round_reduced = o.round_scaled = reference::Rounding::kNone;
  return o;
}

std::int64_t first_expert(std::int64_t experts, int ranks, int rank) { return experts * rank / ranks; }

int owner_of_expert(std::int64_t experts, int ranks, std::int64_t expert) {
  int rank = static_cast<int>(expert * ranks / experts);
  while (first_expert(experts, ranks, rank + 1) <= expert) ++rank;
  return rank;
}

std::vector<std::int64_t> split_tokens(const LayersOptions& options, int batch, int ranks) {
  const std::int64_t tokens = options.tokens[static_cast<std::size_t>(batch)];
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks));
  if (options.split == Split::kLast) {
    counts.back() = tokens;
  } else if (options.split == Split::kUneven) {
    const Random random(options.seed, fmt::format("split {}", batch));
    for (std::int64_t t = 0; t < tokens; ++t)
      ++counts[static_cast<std::size_t>(random.integer(static_cast<std::uint64_t>(t), 0, ranks - 1))];
  } else {
    for (int r = 0; r < ranks; ++r)
      counts[static_cast<std::size_t>(r)] = tokens * (r + 1) / ranks - tokens * r / ranks;
  }
  return counts;
}

Layers::Layers(const LayersOptions& options) : options_(options) {
  if (const auto why = reference::refusal(gating_options(options))) throw UsageError(*why);
  const std::int64_t h = options.hidden, i = options.intermediate, e = options.experts;
  const double by_hidden = 1 / std::sqrt(static_cast<double>(h)),
               by_intermediate = 1 / std::sqrt(static_cast<double>(i));
  for (int l = 0; l < options.layers; ++l) {
    const auto draw = [&](std::string_view tensor, std::int64_t n, double scale) {
      return normals(options.seed, fmt::format("{} {}", tensor, l), n, scale);
    };
    layers_.push_back({draw("gate", e * h, by_hidden), draw("bias", e, 0.1),
                       to_bf16(draw("w13", e * 2 * i * h, 2 * by_hidden)),
                       to_bf16(draw("w2", e * h * i, by_intermediate)),
                       to_bf16(draw("shared w13", 2 * i * h, 2 * by_hidden)),
                       to_bf16(draw("shared w2", h * i, by_intermediate))});
  }
}

std::vector<float> Layers::input(int batch, std::int64_t token) const {
  return normals(options_.seed, fmt::format("input {} {}", batch, token), options_.hidden, 1);
}

bool Layers::dropped(int batch, int layer, std::int64_t token, std::int64_t slot) const {
  if (token == 3) return true;  // a padded row: no slot is anybody's
  const Random random(options_.seed, fmt::format("dropped {} {}", batch, layer));
  return random.integer(static_cast<std::uint64_t>(token * options_.topk + slot), 0, 7) == 0;
}

RankWeights load_weights(const Layers& layers, Compute& compute, int ranks, int rank) {
  const LayersOptions& o = layers.options();
  RankWeights weights;
  weights.first = first_expert(o.experts, ranks, rank);
  weights.count = first_expert(o.experts, ranks, rank + 1) - weights.first;
  const auto load = [&](const auto& values, std::int64_t first, std::int64_t count) {
    const std::size_t element = sizeof values[0];
    Buffer b = compute.allocate(static_cast<std::size_t>(count) * element);
    compute.write(b, values.data() + first, static_cast<std::size_t>(count) * element);
    return b;
  };
  const std::int64_t w13 = 2 * o.intermediate * o.hidden, w2 = o.hidden * o.intermediate;
  for (int l = 0; l < o.layers; ++l) {
    const Layers::Layer& layer = layers.layer(l);
    weights.layers.push_back({load(layer.w13, weights.first * w13, weights.count * w13),
                              load(layer.w2, weights.first * w2, weights.count * w2),
                              load(layer.shared_w13, 0, w13), load(layer.shared_w2, 0, w2),
                              load(layer.bias, 0, o.experts)});
  }
  return weights;
}

std::vector<float> rms_norm(const std::vector<float>& rows, std::int64_t hidden) {
  std::vector<float> out(rows.size());
  const auto h = static_cast<std::size_t>(hidden);
  for (std::size_t first = 0; first < rows.size(); first += h) {
    double squares = 0;
    for (std::size_t i = first; i < first + h; ++i) squares += double{rows[i]} * rows[i];
    const double factor = 1 / std::sqrt(squares / static_cast<double>(hidden) + 1e-6);
    for (std::size_t i = first; i < first + h; ++i) out[i] = static_cast<float>(rows[i] * factor);
  }
  return out;
}

// Element h with its right neighbour.
std::vector<float> project(const std::vector<float>& rows, std::int64_t hidden) {
  std::vector<float> out(rows.size());
  const auto h = static_cast<std::size_t>(hidden);
  for (std::size_t i = 0; i < rows.size(); ++i)
    out[i] = 0.75F * rows[i] - 0.5F * rows[i - i % h + (i % h + 1) % h];
  return out;
}

// Element h with its mirror image.
std::vector<float> mix_rows(const std::vector<float>& rows, std::int64_t hidden) {
  std::vector<float> out(rows.size());
  const auto h = static_cast<std::size_t>(hidden);
  for (std::size_t i = 0; i < rows.size(); ++i) out[i] = 0.5F * (rows[i] + rows[i - i % h + (h - 1 - i % h)]);
  return out;
}

std::vector<std::uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<std::uint16_t> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    reference::store(DType::kBF16, out.data(), static_cast<std::int64_t>(i), values[i]);
  return out;
}

std::vector<float> gate_logits(const std::vector<std::uint16_t>& rows, const std::vector<float>& gate,
                               std::int64_t hidden, std::int64_t experts) {
  const std::int64_t tokens = static_cast<std::int64_t>(rows.size()) / hidden;
  std::vector<float> logits;
  std::vector<double> row(static_cast<std::size_t>(hidden));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t i = 0; i < hidden; ++i)
      row[static_cast<std::size_t>(i)] = reference::load(DType::kBF16, rows.data(), t * hidden + i);
    for (std::int64_t e = 0; e < experts; ++e) {
      double sum = 0;
      for (std::int64_t i = 0; i < hidden; ++i)
        sum += row[static_cast<std::size_t>(i)] * gate[static_cast<std::size_t>(e * hidden + i)];
      logits.push_back(static_cast<float>(sum));
    }
  }
  return logits;
}

}  // namespace moecheck::harness::ranks
