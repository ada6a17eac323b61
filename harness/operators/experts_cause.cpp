// Why the output of experts may be wrong: the worst row is compared with what well-known mistakes would give.
#include <fmt/format.h>

#include <cmath>

#include "harness/operators/experts.h"

namespace moecheck::harness {
namespace {

using reference::ConstView;
using reference::ExpertsInputs;
using reference::ExpertsOptions;
using reference::Routing;

constexpr double kCheap = 64e6;   // multiplications of one row: what a second look may cost
constexpr double kFits = 0.03;    // relative distance of what rounding and quantization leave
constexpr double kBetter = 0.25;  // and of the reference's own distance

std::vector<double> values(const std::vector<reference::Bounded>& from) {
  std::vector<double> v;
  for (const auto& b : from) v.push_back(b.value);
  return v;
}

// One row of the operator, slot by slot and without weights: mistakes of the weighting and the sum are linear in these.
class Row {
 public:
  Row(const Case& c, const TensorSet& inputs, std::int64_t t)
      : options_(experts_options(c)), in_(experts_inputs(inputs)) {
    const std::int64_t hidden = options_.hidden;
    const auto row = [&](ConstView view, std::int64_t columns) {
      view.data = view.as<char>() + t * columns * reference::size_bytes(view.dtype);
      view.shape.dim[0] = 1;
      return view;
    };
    in_.hidden_states = row(in_.hidden_states, hidden);
    in_.topk_ids = row(in_.topk_ids, options_.topk);
    if (in_.topk_weights) in_.topk_weights = row(in_.topk_weights, options_.topk);
    routing_ = reference::make_routing(in_.topk_ids, in_.topk_weights, in_.expert_map, options_);
    for (std::int64_t k = 0; k < options_.topk; ++k)
      weights_.push_back(in_.topk_weights ? in_.topk_weights.at(k) : 1);
  }

  std::int64_t topk() const { return options_.topk; }
  std::int64_t id(std::int64_t k) const { return routing_.ids[at(k)]; }
  double weight(std::int64_t k) const { return weights_[at(k)]; }
  ExpertsOptions& options() { return options_; }
  const ExpertsOptions& options() const { return options_; }

  // y of each slot without its weight (as it is, when the weight is on the input) [topk * hidden], under changed options.
  std::vector<double> slots(ExpertsOptions options, const Routing* other = nullptr) const {
    if (options.router_weight == reference::RouterWeight::kOutput)
      options.router_weight = reference::RouterWeight::kNone;
    return values(reference::expert_slots(in_.hidden_states, in_.weights,
                                          other != nullptr ? *other : routing_, options));
  }
  // sum_k factor(k) y_k
  template <class Factor>
  std::vector<double> sum(const std::vector<double>& slots, Factor factor) const {
    std::vector<double> out(at(options_.hidden));
    for (std::int64_t k = 0; k < topk(); ++k) {
      if (id(k) < 0) continue;
      for (std::size_t h = 0; h < out.size(); ++h)
        out[h] += factor(k) * slots[at(k) * out.size() + h] * options_.reduce_scale;
    }
    return out;
  }
  Routing with_holes_as(std::int64_t expert) const {
    Routing routing = routing_;
    for (std::int64_t& i : routing.ids)
      if (i < 0) i = expert;
    return routing;
  }
  bool has_holes() const {
    for (const std::int64_t i : routing_.ids)
      if (i < 0) return true;
    return false;
  }

 private:
  ExpertsOptions options_;
  ExpertsInputs in_;
  Routing routing_;
  std::vector<double> weights_;
};

double distance(const std::vector<double>& got, const std::vector<double>& want) {
  double d2 = 0, g2 = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    d2 += (got[i] - want[i]) * (got[i] - want[i]), g2 += got[i] * got[i];
  return g2 == 0 ? 1 : std::sqrt(d2 / g2);
}

struct Best {
  double distance;
  std::string cause;
  void offer(const std::vector<double>& got, const std::vector<double>& hypothesis, std::string text) {
    const double d = harness::distance(got, hypothesis);
    if (d < distance) *this = {d, std::move(text)};
  }
};

// Mistakes of weighting and summing.
void offer_weightings(const Row& row, const std::vector<double>& got, Best& best) {
  const bool output = row.options().router_weight == reference::RouterWeight::kOutput;
  const auto own = [&](std::int64_t k) { return output ? row.weight(k) : 1; };
  const std::vector<double> slots = row.slots(row.options());
  if (output) {
    best.offer(got, row.sum(slots, [](std::int64_t) { return 1.0; }), "the router weights are not applied");
    best.offer(got, row.sum(slots, [&](std::int64_t k) { return row.weight(k) * row.weight(k); }),
               "the router weights are applied twice");
    best.offer(got, row.sum(slots, [&](std::int64_t k) { return row.weight((k + 1) % row.topk()); }),
               "each slot has the weight of the next one");
  }
  for (std::int64_t dropped = 0; dropped < row.topk() && row.topk() > 1; ++dropped)
    best.offer(
        got, row.sum(slots, [&](std::int64_t k) { return k == dropped ? 0 : own(k); }),
        fmt::format("slot {} of {} (local expert {}) is missing", dropped, row.topk(), row.id(dropped)));
  for (std::int64_t twice = 0; twice < row.topk(); ++twice)
    best.offer(got, row.sum(slots, [&](std::int64_t k) { return k == twice ? 2 * own(k) : own(k); }),
               fmt::format("slot {} (local expert {}) is counted twice", twice, row.id(twice)));
  const double rsf = row.options().reduce_scale;
  if (rsf != 1) {
    best.offer(got, row.sum(slots, [&](std::int64_t k) { return own(k) / rsf; }),
               fmt::format("routed_scaling_factor={} is not applied in the reduce", rsf));
    best.offer(got, row.sum(slots, [&](std::int64_t k) { return own(k) * rsf; }),
               fmt::format("routed_scaling_factor={} is applied twice", rsf));
  }
}

// Mistakes inside the experts: each recomputes the row.
void offer_kernels(const Row& row, const std::vector<double>& got, Best& best) {
  using reference::GateUpLayout;
  using reference::RouterWeight;
  const bool output = row.options().router_weight == RouterWeight::kOutput;
  const auto own = [&](std::int64_t k) { return output ? row.weight(k) : 1; };
  const auto try_options = [&](const ExpertsOptions& changed, std::string text) {
    const bool weigh = changed.router_weight == RouterWeight::kOutput;
    best.offer(got, row.sum(row.slots(changed), [&](std::int64_t k) { return weigh ? row.weight(k) : 1; }),
               std::move(text));
  };
  for (const GateUpLayout layout :
       {GateUpLayout::kGateUp, GateUpLayout::kUpGate, GateUpLayout::kInterleaved}) {
    if (layout == row.options().activation.layout) continue;
    ExpertsOptions changed = row.options();
    changed.activation.layout = layout;
    try_options(changed, fmt::format("the rows of w13 are read as {} instead of {}", name(layout),
                                     name(row.options().activation.layout)));
  }
  if (row.options().router_weight != RouterWeight::kNone) {
    ExpertsOptions changed = row.options();
    changed.router_weight = output ? RouterWeight::kInput : RouterWeight::kOutput;
    try_options(changed,
                output ? "the router weight multiplies the input of the activation instead of the output"
                       : "the router weight multiplies the output instead of the input of the activation");
  }
  if (!row.has_holes()) return;
  for (const std::int64_t expert : {std::int64_t{0}, row.options().local_experts - 1}) {
    const Routing routing = row.with_holes_as(expert);
    const std::vector<double> slots = row.slots(row.options(), &routing);
    std::vector<double> out(at(row.options().hidden));
    for (std::int64_t k = 0; k < row.topk(); ++k)
      for (std::size_t h = 0; h < out.size(); ++h)
        out[h] += own(k) * slots[at(k) * out.size() + h] * row.options().reduce_scale;
    best.offer(got, out, fmt::format("slots that are not here (id -1) are computed as expert {}", expert));
  }
}

}  // namespace

std::string experts_cause(const Case& c, const TensorSet& inputs, const BoundedOutput& expected,
                          const TensorSet& outputs) {
  const std::int64_t tokens = c.integer("tokens"), hidden = c.integer("hidden");
  if (static_cast<double>(c.integer("topk")) * 3 * static_cast<double>(hidden * c.integer("intermediate")) >
      kCheap)
    return {};
  const ConstView out = outputs.at("out").view();
  std::int64_t worst = -1;
  double worst_distance = 0;
  std::vector<double> got(at(hidden)), want(got.size());
  for (std::int64_t t = 0; t < tokens; ++t) {
    bool finite = true;
    for (std::int64_t h = 0; h < hidden; ++h) {
      got[at(h)] = out.at(t, h);
      want[at(h)] = expected.out[at(t * hidden + h)].value;
      finite = finite && std::isfinite(got[at(h)]) && std::isfinite(want[at(h)]);
    }
    if (const double d = finite ? distance(got, want) : 0; d > worst_distance) worst = t, worst_distance = d;
  }
  if (worst < 0) return {};
  for (std::int64_t h = 0; h < hidden; ++h) got[at(h)] = out.at(worst, h);
  Best best{std::min(kFits, kBetter * worst_distance), {}};
  const Row row(c, inputs, worst);
  offer_weightings(row, got, best);
  offer_kernels(row, got, best);
  return best.cause.empty() ? best.cause : fmt::format("token {}: {}", worst, best.cause);
}

}  // namespace moecheck::harness
