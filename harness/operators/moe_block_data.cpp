// Inputs of moe_block, and why its output may be wrong.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/operators/experts.h"
#include "harness/operators/moe_block.h"

namespace moecheck::harness {
namespace {

using reference::GatingOptions;
using reference::View;

// The experts of one row: distinct, spread over exactly topk_group groups, one of them on this rank.
struct Selection {
  std::vector<std::int64_t> experts;  // [topk]
  std::vector<std::int64_t> near;     // in groups that are kept without holding one of them
};

Selection select_row(const Case& c, const GatingOptions& o, std::int64_t row) {
  const Random random(c.seed, "selection");
  auto position = static_cast<std::uint64_t>(row) << 20;
  const auto draw = [&](std::int64_t low, std::int64_t n) {
    return low + random.integer(position++, 0, n - 1);
  };
  const std::int64_t per_group = o.experts / o.groups, local = o.experts / c.integer("ep_size");
  const std::int64_t mine = c.integer("ep_rank") * local;
  const std::int64_t must = data_is(c, "hot_expert")
                                ? mine + static_cast<std::int64_t>(c.seed % static_cast<std::uint64_t>(local))
                                : draw(mine, local);
  const auto fresh = [&](const std::vector<std::int64_t>& taken, std::int64_t low, std::int64_t n) {
    std::int64_t v = draw(low, n);
    while (std::find(taken.begin(), taken.end(), v) != taken.end()) v = draw(low, n);
    return v;
  };
  std::vector<std::int64_t> groups = {must / per_group};
  while (static_cast<std::int64_t>(groups.size()) < o.topk_group)
    groups.push_back(fresh(groups, 0, o.groups));
  Selection s;
  s.experts.push_back(must);
  for (std::int64_t k = 1; k < o.topk; ++k)
    s.experts.push_back(fresh(s.experts, groups[at(k % o.topk_group)] * per_group, per_group));
  for (std::int64_t g = o.topk; g < o.topk_group; ++g)
    s.near.push_back(draw(groups[at(g)] * per_group, per_group));
  return s;
}

// Winners and losers lie 3 apart, so that neither roundings nor biases nor sums of two per group leave a choice open. Exact data:
// winners are equal, so that each weighs 1/K.
void fill_router_logits(const Case& c, const GatingOptions& o, View logits) {
  const Random random(c.seed, "router_logits");
  const std::int64_t columns = o.logit_columns();
  const bool exact = data_is(c, "integers");
  for (std::int64_t t = 0; t < c.integer("tokens"); ++t) {
    const std::int64_t r = source_row(c, t);
    const auto u = [&](std::int64_t e) {
      return random.uniform(static_cast<std::uint64_t>(r * columns + e));
    };
    for (std::int64_t e = 0; e < columns; ++e)
      logits.set(t * columns + e, e >= o.experts ? 4 * u(e) - 2 : exact ? -40 : -6 + 3 * u(e));
    const Selection s = select_row(c, o, r);
    for (const std::int64_t e : s.experts) logits.set(t * columns + e, exact ? 40 : 0.5 + 3 * u(e));
    for (const std::int64_t e : s.near) logits.set(t * columns + e, 0);
  }
}

void fill_bias(const Case& c, View bias) {
  const Random random(c.seed, "e_score_correction_bias");
  for (std::int64_t e = 0; e < bias.shape.numel(); ++e) {
    const auto i = static_cast<std::uint64_t>(e);
    bias.set(e, data_is(c, "integers") ? 0.0625 * static_cast<double>(random.integer(i, -1, 1))
                                       : 0.015 * random.normal(i));
  }
}

}  // namespace

void generate_moe_block(const Case& c, TensorSet& inputs) {
  const reference::MoeBlockOptions o = moe_block_options(c);
  fill_hidden_states(c, inputs.at("hidden_states"));
  fill_router_logits(c, o.gating, inputs.view("router_logits"));
  if (const View bias = inputs.view("e_score_correction_bias")) fill_bias(c, bias);
  std::vector<std::int64_t> routed = {0};  // expert 0 is where padded rows go under some gates
  for (std::int64_t t = 0; t < c.integer("tokens"); ++t) {
    const Selection s = select_row(c, o.gating, source_row(c, t));
    routed.insert(routed.end(), s.experts.begin(), s.experts.end());
  }
  const std::int64_t shared = c.integer("n_shared"), fused = fused_shared_slots(c),
                     local = o.gating.experts / o.ep_size;
  const MlpShape one{o.experts.hidden, o.experts.intermediate, o.experts.activation.layout,
                     o.gating.topk * (1 + shared)};
  fill_routed_experts(c, routed, one, inputs);
  Tensor &w13 = inputs.at("w13"), &w2 = inputs.at("w2");
  for (std::int64_t j = 0; j < fused; ++j)
    fill_mlp(c, "shared", one, local + j, j, w13, w2, inputs.find("w13_scale"), inputs.find("w2_scale"));
  if (Tensor* shared_w13 = inputs.find("shared_w13")) {
    MlpShape fat = one;
    fat.intermediate *= shared;
    fill_mlp(c, "shared", fat, 0, 0, *shared_w13, inputs.at("shared_w2"), inputs.find("shared_w13_scale"),
             inputs.find("shared_w2_scale"));
  }
  if (Tensor* gate = inputs.find("shared_gate"))
    fill_normal(*gate, Random(c.seed, "shared_gate"), 1 / std::sqrt(static_cast<double>(one.hidden)));
}

// R is taken as the weights of the reference have it, without the factor, so that alpha is rsf where all is well.
std::string moe_block_cause(const Case& c, const TensorSet& inputs, const BlockExpected& expected,
                            const TensorSet& outputs) {
  const reference::MoeBlockResult& r = expected.result;
  const reference::MoeBlockOptions o = moe_block_options(c);
  if (o.experts.router_weight != reference::RouterWeight::kOutput || o.ep_size > 1) return {};
  const std::int64_t tokens = c.integer("tokens"), hidden = c.integer("hidden");
  const double folded = reference::Gating(o.gating).scales_weights() ? o.gating.routed_scaling_factor : 1;
  std::vector<double> out, routed, shared;
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (t >= padding_begin(c) || r.ambiguous[at(t)]) continue;
    double total = 0;
    for (std::int64_t k = 0; k < o.gating.topk; ++k) total += r.weights[at(t * r.slots + k)].value / folded;
    for (std::int64_t i = t * hidden; i < (t + 1) * hidden; ++i) {
      out.push_back(outputs.at("out").view().at(i));
      routed.push_back(r.routed[at(i)] * total);
      if (c.integer("n_shared") > 0) shared.push_back(r.shared[at(i)]);
    }
  }
  static_cast<void>(inputs);
  return scale_cause(out, routed, shared, c, o.combine.plan);
}

}  // namespace moecheck::harness
