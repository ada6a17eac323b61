// Relations of moe_block.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "harness/operators/experts.h"
#include "harness/operators/moe_block.h"

namespace moecheck::harness {
namespace {

Case plain(const Case& c) { return with_tokens(c, c.integer("tokens")); }

bool is_expert_weight(std::string_view name) {
  return name == "w13" || name == "w2" || name == "w13_scale" || name == "w2_scale";
}

// Columns [0, order.size()) of a matrix in another order; what follows stays.
void permute_columns(Tensor& t, std::span<const std::int64_t> order) {
  const Tensor old = t;
  const std::int64_t columns = t.shape()[t.shape().rank - 1],
                     rows = columns == 0 ? 0 : t.shape().numel() / columns;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < order.size(); ++i)
      t.view().set(r * columns + static_cast<std::int64_t>(i), old.view().at(r * columns + order[i]));
}

// Experts and groups in reverse order, in logits, bias and weights alike.
void expert_permutation(const Trial& trial) {
  const Case& c = trial.c;
  if (c.integer("ep_size") > 1) throw NotApplicable("it needs ep_size=1");
  const std::int64_t experts = c.integer("experts");
  std::vector<std::int64_t> order(at(experts));
  std::iota(order.rbegin(), order.rend(), 0);
  TensorSet inputs;
  for (const Tensor& t : trial.inputs.tensors()) {
    std::vector<std::int64_t> with_shared = order;
    for (std::int64_t e = experts; is_expert_weight(t.name()) && e < t.shape()[0]; ++e)
      with_shared.push_back(e);
    Tensor& copy = inputs.add(is_expert_weight(t.name()) ? gather_experts(t, with_shared) : t);
    if (t.name() == "router_logits" || t.name() == "e_score_correction_bias") permute_columns(copy, order);
  }
  require_judged(trial, plain(c), inputs, "with experts and groups in reverse order");
}

void factor_applied_once(const Trial& trial) {
  if (data_is(trial.c, "large")) throw NotApplicable("twice the factor may overflow");
  const Case changed = with_field(trial.c, "rsf", fmt::format("{}", 2 * trial.c.real("rsf")));
  require_judged(trial, changed, trial.inputs,
                 fmt::format("with rsf={} instead of {}", changed.real("rsf"), trial.c.real("rsf")));
}

// A constant on every bias moves every choice score alike, and no weight.
void bias_shift(const Trial& trial) {
  if (trial.inputs.find("e_score_correction_bias") == nullptr) throw NotApplicable("it needs a bias");
  if (moe_block_options(trial.c).gating.policy.bias_on == reference::BiasOn::kLogits)
    throw NotApplicable("the bias is added to the logits");
  if (data_is(trial.c, "integers"))
    throw NotApplicable("scores of 1 and biases of 1/16 leave bf16 no room for a shift");
  TensorSet inputs = trial.inputs;
  const View bias = inputs.view("e_score_correction_bias");
  for (std::int64_t e = 0; e < bias.shape.numel(); ++e) bias.set(e, ConstView(bias).at(e) + 0.5);
  require_judged(trial, plain(trial.c), inputs, "with 0.5 added to every bias");
}

// Copies `rows` rows of `bytes` bytes, `step` apart, into rows `to_step` apart.
void copy_rows(std::byte* to, std::size_t to_step, const std::byte* from, std::size_t step, std::size_t bytes,
               std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; ++r) std::memcpy(to + at(r) * to_step, from + at(r) * step, bytes);
}

// The fat MLP whose chunks are the last n slots of a fused weight. `parts`: the blocks of rows that are stacked by kind (gate and up
// apart, or one where they alternate).
Tensor fat_rows(const Tensor& fused, std::int64_t first, std::int64_t n, const Shape& shape,
                std::int64_t parts, std::string name) {
  Tensor fat(std::move(name), fused.dtype(), shape);
  const std::size_t slot = fused.bytes() / at(fused.shape()[0]), part = slot / at(parts);
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t p = 0; p < parts; ++p)
      std::memcpy(fat.data() + at(p * n + j) * part, fused.data() + at(first + j) * slot + at(p) * part,
                  part);
  return fat;
}

Tensor fat_columns(const Tensor& fused, std::int64_t first, std::int64_t n, const Shape& shape,
                   std::string name) {
  Tensor fat(std::move(name), fused.dtype(), shape);
  const std::int64_t rows = fused.shape()[1];
  const std::size_t slot = fused.bytes() / at(fused.shape()[0]), row = slot / at(rows);
  for (std::int64_t j = 0; j < n; ++j)
    copy_rows(fat.data() + at(j) * row, at(n) * row, fused.data() + at(first + j) * slot, row, row, rows);
  return fat;
}

// The same block with the shared experts as a module of their own.
void fused_equals_unfused(const Trial& trial) {
  const Case& c = trial.c;
  const std::int64_t n = c.integer("n_shared"), intermediate = c.integer("intermediate"),
                     hidden = c.integer("hidden");
  if (!c.flag("fused") || c.integer("ep_size") > 1) throw NotApplicable("it needs fused=1 and ep_size=1");
  if (moe_block_options(c).gating.policy.shared_weights == reference::SharedWeight::kGated &&
      c.choice("insertion") == "gate")
    throw NotApplicable("the shared gate's logit comes with the router logits");
  const bool fp8 = c.choice("quant") != "none";
  if (fp8 && n > 1 && intermediate % 128 != 0) throw NotApplicable("blocks of scales straddle the chunks");
  Case unfused = with_field(c, "fused", "0");
  unfused.set("insertion", "gate");
  if (c.choice("place") == "topk_weights_and_shared") unfused.set("place", "topk_weights");
  const std::int64_t experts = c.integer("experts"), fat = n * intermediate;
  const std::int64_t parts = c.choice("layout") == "interleaved" ? 1 : 2;
  std::vector<std::int64_t> order(at(experts));
  std::iota(order.begin(), order.end(), 0);
  TensorSet inputs;
  for (const Tensor& t : trial.inputs.tensors())
    inputs.add(is_expert_weight(t.name()) ? gather_experts(t, order) : t);
  const TensorSet& from = trial.inputs;
  inputs.add(fat_rows(from.at("w13"), experts, n, Shape(2 * fat, hidden), parts, "shared_w13"));
  inputs.add(fat_columns(from.at("w2"), experts, n, Shape(hidden, fat), "shared_w2"));
  if (fp8) {
    const auto blocks = [](std::int64_t v) { return ceil_div(v, 128); };
    inputs.add(fat_rows(from.at("w13_scale"), experts, n, Shape(blocks(2 * fat), blocks(hidden)),
                        n == 1 ? 1 : parts, "shared_w13_scale"));
    inputs.add(
        fat_columns(from.at("w2_scale"), experts, n, Shape(blocks(hidden), blocks(fat)), "shared_w2_scale"));
  }
  require_judged(trial, unfused, inputs, "with the shared experts as a module of their own");
}

// What one of two ranks holds: its half of the experts, and all fused shared slots.
TensorSet rank_inputs(const TensorSet& inputs, std::int64_t experts, std::int64_t rank) {
  TensorSet shard;
  for (const Tensor& t : inputs.tensors()) {
    if (!is_expert_weight(t.name())) {
      shard.add(t);
      continue;
    }
    std::vector<std::int64_t> order(at(experts / 2));
    std::iota(order.begin(), order.end(), rank * (experts / 2));
    for (std::int64_t e = experts; e < t.shape()[0]; ++e) order.push_back(e);
    shard.add(gather_experts(t, order));
  }
  return shard;
}

void shards_sum(const Trial& trial) {
  const Case& c = trial.c;
  const std::int64_t experts = c.integer("experts"), hidden = c.integer("hidden");
  if (c.integer("ep_size") > 1 || experts % 2 != 0)
    throw NotApplicable("it needs ep_size=1 and an even number of experts");
  if (c.choice("router_weight") == "input" && c.integer("fused") != 0)
    throw NotApplicable("a rank's share of the fused shared experts goes through their activation");
  std::vector<double> sum(at(c.integer("tokens") * hidden)), slack(sum.size());
  const double steps = 4 + static_cast<double>(c.choice("accumulate") == "dtype" ? 2 * c.integer("topk") : 0);
  const auto add = [&](const Case& part, const TensorSet& inputs, const TensorSet& outputs, double sign) {
    // Sums in T on the way may be larger than what they come to, and each rank has others: the bound of any order holds them.
    const bool narrow = c.choice("accumulate") == "dtype";
    const auto expected = trial.op.reference(narrow ? with_field(part, "order", "any") : part, inputs);
    const auto& result = static_cast<const BlockExpected&>(*expected).result;
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += sign * outputs.at("out").view().at(static_cast<std::int64_t>(i));
      const double size = std::fabs(result.out[i].value) + std::fabs(result.shared[i]) + result.out[i].proven;
      // Each rank rounds its own partial results on the way: a few steps of T of their size.
      slack[i] += result.out[i].proven + steps * size * reference::unit_roundoff(c.dtype("dtype")) +
                  reference::min_normal(c.dtype("dtype"));
      if (result.ambiguous[i / at(hidden)]) slack[i] = INFINITY;
    }
  };
  add(plain(c), trial.inputs, trial.outputs, -1);
  for (std::int64_t rank = 0; rank < 2; ++rank) {
    Case part = with_field(plain(c), "ep_size", "2");
    part.set("ep_rank", rank);
    const TensorSet inputs = rank_inputs(trial.inputs, experts, rank);
    add(part, inputs, trial.run(part, inputs), 1);
  }
  for (std::size_t i = 0; i < sum.size(); ++i)
    if (!(std::fabs(sum[i]) <= slack[i]) && std::isfinite(slack[i]) && std::isfinite(sum[i]))
      throw Broken(fmt::format(
          "out[{}, {}]: two ranks add up to {:.4g} more than the whole; {:.3g} is what roundings leave",
          i / at(hidden), i % at(hidden), sum[i], slack[i]));
}

}  // namespace

std::span<const Relation> moe_block_relations() {
  static const std::array<Relation, 9> all = {
      kTokenPermutation,
      kBatchSplit,
      kDuplicateToken,
      kPaddingIndependence,
      Relation{"expert_permutation", "experts and groups under other numbers give the same",
               expert_permutation},
      Relation{"factor_applied_once", "twice the factor doubles the routed part and leaves the shared part",
               factor_applied_once},
      Relation{"bias_shift", "a constant on every bias changes no weight", bias_shift},
      Relation{"fused_equals_unfused", "fused shared slots and a shared module give the same",
               fused_equals_unfused},
      Relation{"shards_sum", "the shards of two expert-parallel ranks add up to the whole", shards_sum},
  };
  return all;
}

}  // namespace moecheck::harness
