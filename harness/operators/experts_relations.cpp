// Relations of experts.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "harness/operators/experts.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

constexpr std::array<std::string_view, 4> kWeights = {"w13", "w2", "w13_scale", "w2_scale"};

void need_one_rank(const Trial& trial) {
  if (trial.c.integer("ep_size") > 1) throw NotApplicable("it needs ep_size=1");
}

// The inputs with other experts; `ids` rewrites each id >= 0.
template <class Ids>
TensorSet with_experts(const TensorSet& inputs, std::span<const std::int64_t> order, Ids ids) {
  TensorSet changed;
  for (const Tensor& t : inputs.tensors()) {
    const bool weight = std::find(kWeights.begin(), kWeights.end(), t.name()) != kWeights.end();
    Tensor& copy = changed.add(weight ? gather_experts(t, order) : t);
    if (t.name() != "topk_ids") continue;
    for (std::int64_t i = 0; i < t.shape().numel(); ++i)
      if (const std::int64_t id = t.view().int_at(i); id >= 0) copy.view().set_int(i, ids(id));
  }
  return changed;
}

void same_bytes(const Trial& trial, const TensorSet& got) {
  Trial::require_rows_equal(got, 0, trial.c.integer("tokens"), trial.outputs, 0, "out");
}

// Experts and ids renamed alike. Where the sum follows the slots nothing may change; else its order does.
void expert_permutation(const Trial& trial) {
  need_one_rank(trial);
  const std::int64_t experts = trial.c.integer("experts");
  if (experts < 2) throw NotApplicable("it needs experts>=2");
  std::vector<std::int64_t> order(at(experts));
  std::iota(order.rbegin(), order.rend(), 0);
  const TensorSet inputs =
      with_experts(trial.inputs, order, [&](std::int64_t id) { return experts - 1 - id; });
  const Case c = with_tokens(trial.c, trial.c.integer("tokens"));
  if (c.choice("order") == "slot")
    same_bytes(trial, trial.run(c, inputs));
  else
    require_judged(trial, c, inputs, "with the experts in reverse order");
}

// One more expert, all NaN, that nobody routes to.
void dead_expert(const Trial& trial) {
  need_one_rank(trial);
  const std::int64_t experts = trial.c.integer("experts"), dead = experts / 2;
  std::vector<std::int64_t> order(at(experts));
  std::iota(order.begin(), order.end(), 0);
  order.insert(order.begin() + static_cast<std::ptrdiff_t>(dead), -1);
  const TensorSet inputs =
      with_experts(trial.inputs, order, [&](std::int64_t id) { return id < dead ? id : id + 1; });
  same_bytes(trial, trial.run(with_field(trial.c, "experts", fmt::format("{}", experts + 1)), inputs));
}

void power_of_two_weights(const Trial& trial) {
  if (trial.c.choice("router_weight") != "output") throw NotApplicable("it needs router_weight=output");
  if (trial.c.dtype("dtype") == DType::kF16 || data_is(trial.c, "large") || data_is(trial.c, "subnormal"))
    throw NotApplicable("twice the data may leave the range where rounding only scales");
  TensorSet inputs = trial.inputs, doubled = trial.outputs;
  for (const View view : {inputs.view("topk_weights"), doubled.view("out")})
    for (std::int64_t i = 0; i < view.shape.numel(); ++i) view.set(i, 2 * ConstView(view).at(i));
  const TensorSet got = trial.run(with_tokens(trial.c, trial.c.integer("tokens")), inputs);
  Trial::require_rows_equal(got, 0, trial.c.integer("tokens"), doubled, 0, "out");
}

// The inputs of one of `ranks` ranks, of the whole.
TensorSet rank_inputs(const TensorSet& inputs, std::int64_t experts, std::int64_t ranks, std::int64_t rank) {
  const std::int64_t local = experts / ranks, first = rank * local;
  std::vector<std::int64_t> order(at(local));
  std::iota(order.begin(), order.end(), first);
  TensorSet shard = with_experts(inputs, order, [](std::int64_t id) { return id; });
  Tensor map("expert_map", DType::kI32, Shape(experts));
  for (std::int64_t e = 0; e < experts; ++e)
    map.view().set_int(e, e >= first && e < first + local ? e - first : -1);
  shard.add(std::move(map));
  return shard;
}

// Half a step of T around v: what the last rounding may move.
double half_step(DType dtype, double v) {
  const reference::Neighbours n = reference::neighbours(dtype, v);
  return std::isfinite(n.upper - n.lower) ? (n.upper - n.lower) / 2 : 0;
}

void shards_sum(const Trial& trial) {
  need_one_rank(trial);
  const std::int64_t experts = trial.c.integer("experts");
  if (experts % 2 != 0) throw NotApplicable("it needs an even number of experts");
  const DType dtype = trial.c.dtype("dtype");
  const ConstView whole = trial.outputs.at("out").view();
  std::vector<double> sum(at(whole.shape.numel())), bound(sum.size());
  // A sum in T is rounded after every slot, to where the reference follows; partial sums may exceed their end.
  const double steps =
      trial.c.choice("accumulate") == "dtype" ? static_cast<double>(trial.c.integer("topk")) : 0;
  double largest = 0;
  for (std::int64_t i = 0; steps > 0 && i < whole.shape.numel(); ++i)
    largest = std::fmax(largest, std::fabs(whole.at(i)));
  const auto add = [&](const Case& c, const TensorSet& inputs, ConstView out, double sign) {
    const auto expected = trial.op.reference(c, inputs);
    const auto& want = static_cast<const BoundedOutput&>(*expected).out;
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += sign * out.at(static_cast<std::int64_t>(i));
      const double size = std::fabs(want[i].value) + want[i].proven;
      bound[i] += want[i].proven + half_step(dtype, size) +
                  steps * reference::unit_roundoff(dtype) * (size + largest);
    }
  };
  const Case plain = with_tokens(trial.c, trial.c.integer("tokens"));
  add(plain, trial.inputs, whole, -1);
  for (std::int64_t rank = 0; rank < 2; ++rank) {
    Case c = with_field(plain, "ep_size", "2");
    c.set("ep_rank", rank);
    const TensorSet inputs = rank_inputs(trial.inputs, experts, 2, rank);
    add(c, inputs, trial.run(c, inputs).at("out").view(), 1);
  }
  for (std::size_t i = 0; i < sum.size(); ++i)
    if (!(std::fabs(sum[i]) <= bound[i]) && std::isfinite(bound[i]) && std::isfinite(sum[i]))
      throw Broken(fmt::format(
          "out[{}, {}]: the shards of two ranks add up to {} more than the whole, {:.3g} is the bound",
          i / at(whole.shape[1]), i % at(whole.shape[1]), sum[i], bound[i]));
}

// Under order=slot the slots may change places, and the sum with them.
void slot_permutation(const Trial& trial) {
  const std::int64_t topk = trial.c.integer("topk"), tokens = trial.c.integer("tokens");
  if (topk < 2) throw NotApplicable("it needs topk>=2");
  TensorSet inputs = trial.inputs;
  for (std::int64_t s = 0; s < tokens * topk; ++s) {
    const std::int64_t from = s / topk * topk + (topk - 1 - s % topk);
    inputs.view("topk_ids").set_int(s, trial.inputs.view("topk_ids").int_at(from));
    if (const View w = inputs.view("topk_weights")) w.set(s, trial.inputs.view("topk_weights").at(from));
  }
  require_judged(trial, with_tokens(trial.c, tokens), inputs, "with the slots of each token reversed");
}

}  // namespace

Tensor gather_experts(const Tensor& weight, std::span<const std::int64_t> order, std::uint8_t fill) {
  Shape shape = weight.shape();
  const std::size_t bytes = weight.bytes() / at(std::max<std::int64_t>(1, shape[0]));
  shape.dim[0] = static_cast<std::int64_t>(order.size());
  Tensor gathered(weight.name(), weight.dtype(), shape);
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::byte* to = gathered.data() + i * bytes;
    if (order[i] < 0)
      std::memset(to, fill, bytes);
    else
      std::memcpy(to, weight.data() + at(order[i]) * bytes, bytes);
  }
  return gathered;
}

std::span<const Relation> experts_relations() {
  static const std::array<Relation, 9> all = {
      kTokenPermutation,
      kBatchSplit,
      kDuplicateToken,
      kPaddingIndependence,
      Relation{"expert_permutation",
               "experts under other numbers give the same: to the bit where the sum follows the slots",
               expert_permutation},
      Relation{"dead_expert", "an expert nobody routes to changes nothing, whatever its weights hold",
               dead_expert},
      Relation{"power_of_two_weights", "twice the router weights give twice the output, to the bit",
               power_of_two_weights},
      Relation{"shards_sum", "the shards of two expert-parallel ranks add up to the whole", shards_sum},
      Relation{"slot_permutation", "the order of a token's slots changes no more than rounding",
               slot_permutation},
  };
  return all;
}

}  // namespace moecheck::harness
