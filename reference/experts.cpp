#include "reference/experts.h"

#include <algorithm>
#include <stdexcept>

#include "reference/expert_gemm.h"
#include "reference/text.h"

namespace moecheck::reference {
namespace {

bool is_fp8(DType dtype) {
  return dtype == DType::kE4M3FN || dtype == DType::kE4M3FNUZ || dtype == DType::kE5M2;
}

std::optional<std::string> shape_refusal(const char* what, ConstView view, const Shape& want) {
  if (view.shape == want) return std::nullopt;
  return std::string(what) + " has shape " + text(view.shape) + ", not " + text(want);
}

std::optional<std::string> scale_refusal(const char* what, ConstView weight, ConstView scale) {
  if (!is_fp8(weight.dtype)) {
    if (!scale) return std::nullopt;
    return std::string(what) + " is given for " + std::string(name(weight.dtype)) +
           " weights: only fp8 weights have block scales";
  }
  if (!scale) return std::string(what) + " is missing: fp8 weights need their block scales";
  if (scale.dtype != DType::kF32)
    return std::string(what) + " is " + std::string(name(scale.dtype)) + ": block scales are f32";
  const auto blocks = [](std::int64_t n) { return (n + 127) / 128; };
  return shape_refusal(what, scale, Shape(weight.shape[0], blocks(weight.shape[1]), blocks(weight.shape[2])));
}

// One (token, slot) on its way through an expert; buffers are reused from expert to expert.
struct Slot {
  std::int64_t index = 0;  // t * K + k
  std::vector<Bounded> h, a;
  GemmRow row;
};

class ExpertsReference {
 public:
  ExpertsReference(ConstView hidden_states, const ExpertWeights& weights, const Routing& routing,
                   const ExpertsOptions& options)
      : weights_(weights),
        routing_(routing),
        options_(options),
        quant_(options.fp8_activations ? &options_.quant : nullptr) {
    options_.activation.dtype = options.dtype;
    std::vector<Bounded> x(static_cast<std::size_t>(options.hidden));
    inputs_.resize(static_cast<std::size_t>(routing.tokens()));
    for (std::int64_t t = 0; t < routing.tokens(); ++t) {
      const auto used = [&](std::int64_t id) { return id >= 0; };
      const auto begin = routing.ids.begin() + t * routing.topk;
      if (std::none_of(begin, begin + routing.topk, used)) continue;
      for (std::int64_t i = 0; i < options.hidden; ++i)
        x[static_cast<std::size_t>(i)] = Bounded::exact(hidden_states.at(t, i));
      prepare_row(x.data(), options.hidden, quant_, inputs_[static_cast<std::size_t>(t)]);
    }
  }

  std::vector<Bounded> run() {
    std::vector<Bounded> out(routing_.ids.size() * static_cast<std::size_t>(options_.hidden));
    std::vector<std::vector<std::int64_t>> slots_of(static_cast<std::size_t>(options_.local_experts));
    for (std::size_t s = 0; s < routing_.ids.size(); ++s)
      if (routing_.ids[s] >= 0)
        slots_of[static_cast<std::size_t>(routing_.ids[s])].push_back(static_cast<std::int64_t>(s));
    for (std::int64_t e = 0; e < options_.local_experts; ++e)
      if (!slots_of[static_cast<std::size_t>(e)].empty())
        run_expert(e, slots_of[static_cast<std::size_t>(e)], out);
    return out;
  }

 private:
  void run_expert(std::int64_t e, const std::vector<std::int64_t>& indices, std::vector<Bounded>& out) {
    if (slots_.size() < indices.size()) slots_.resize(indices.size());
    std::vector<const GemmRow*> rows;
    std::vector<Bounded*> results;
    for (std::size_t i = 0; i < indices.size(); ++i) {
      slots_[i].index = indices[i];
      slots_[i].h.resize(static_cast<std::size_t>(2 * options_.intermediate));
      slots_[i].a.resize(static_cast<std::size_t>(options_.intermediate));
      rows.push_back(&inputs_[static_cast<std::size_t>(indices[i] / routing_.topk)]);
      results.push_back(slots_[i].h.data());
    }
    gemm_rows(weights_.w13, weights_.w13_scale, e, rows, results);
    for (std::size_t i = 0; i < indices.size(); ++i) {
      activate(slots_[i]);
      rows[i] = &slots_[i].row;
      results[i] = out.data() + indices[i] * options_.hidden;
    }
    gemm_rows(weights_.w2, weights_.w2_scale, e, rows, results);
    for (std::size_t i = 0; i < indices.size(); ++i) finish(indices[i], results[i]);
  }

  // h -> a, prepared for the second GEMM.
  void activate(Slot& slot) const {
    const bool weigh = options_.router_weight == RouterWeight::kInput;
    for (Bounded& h : slot.h) {
      if (weigh) h = h * routing_.weights[static_cast<std::size_t>(slot.index)];
      h = round_to(options_.dtype, h, options_.round_gate_up);
    }
    gated_activation(slot.h.data(), options_.intermediate, options_.activation, slot.a.data());
    prepare_row(slot.a.data(), options_.intermediate, quant_, slot.row);
  }

  void finish(std::int64_t index, Bounded* y) const {
    const bool weigh = options_.router_weight == RouterWeight::kOutput;
    for (std::int64_t i = 0; i < options_.hidden; ++i) {
      if (weigh) y[i] = y[i] * routing_.weights[static_cast<std::size_t>(index)];
      y[i] = round_to(options_.dtype, y[i], options_.round_slot);
    }
  }

  const ExpertWeights& weights_;
  const Routing& routing_;
  ExpertsOptions options_;
  const Fp8QuantOptions* quant_;
  std::vector<GemmRow> inputs_;  // [M] hidden states
  std::vector<Slot> slots_;
};

}  // namespace

std::string_view name(RouterWeight weight) {
  constexpr std::string_view names[] = {"output", "input", "none"};
  return names[static_cast<std::size_t>(weight)];
}

Routing make_routing(ConstView topk_ids, ConstView topk_weights, ConstView expert_map,
                     const ExpertsOptions& options) {
  Routing routing;
  routing.topk = options.topk;
  const std::int64_t slots = topk_ids.shape.numel();
  if (options.topk < 1 || topk_ids.shape.rank != 2 || topk_ids.shape[1] != options.topk)
    throw std::invalid_argument("topk_ids has shape " + text(topk_ids.shape) +
                                ", not [M, topk=" + text(options.topk) + "]");
  if (options.router_weight != RouterWeight::kNone && !(topk_weights && topk_weights.shape == topk_ids.shape))
    throw std::invalid_argument("topk_weights must have the shape of topk_ids, " + text(topk_ids.shape));
  for (std::int64_t s = 0; s < slots; ++s) {
    const std::int64_t id = topk_ids.int_at(s);
    const std::string where =
        "topk_ids[" + text(s / options.topk) + ", " + text(s % options.topk) + "]=" + text(id);
    if (id < -1 || id >= options.experts)
      throw std::invalid_argument(where + " is outside [-1, " + text(options.experts) + ")");
    if (id >= 0 && expert_map && id >= expert_map.shape.numel())
      throw std::invalid_argument(where + ": expert_map has only " + text(expert_map.shape.numel()) +
                                  " entries");
    const std::int64_t local = id >= 0 && expert_map ? expert_map.int_at(id) : id;
    if (local >= options.local_experts)
      throw std::invalid_argument(where + " has local index " + text(local) + ": only " +
                                  text(options.local_experts) + " experts are here; give an expert_map");
    routing.experts.push_back(id);
    routing.ids.push_back(std::max<std::int64_t>(local, -1));
    if (topk_weights) routing.weights.push_back(Bounded::exact(topk_weights.at(s)));
  }
  return routing;
}

std::optional<std::string> refusal(const ExpertsOptions& options, ConstView hidden_states,
                                   const ExpertWeights& weights) {
  const std::int64_t h = options.hidden, i = options.intermediate, e = options.local_experts;
  if (h < 1 || i < 1 || options.topk < 1)
    return "hidden=" + text(h) + ", intermediate=" + text(i) + ", topk=" + text(options.topk) +
           ": at least 1 each";
  if (hidden_states.shape.rank != 2 || hidden_states.shape[1] != h)
    return "hidden_states has shape " + text(hidden_states.shape) + ", not [M, hidden=" + text(h) + "]";
  if (hidden_states.dtype != options.dtype)
    return "hidden_states is " + std::string(name(hidden_states.dtype)) + ", the options say " +
           std::string(name(options.dtype));
  if (auto why = shape_refusal("w13", weights.w13, Shape(e, 2 * i, h))) return why;
  if (auto why = shape_refusal("w2", weights.w2, Shape(e, h, i))) return why;
  const DType stored = weights.w13.dtype;
  if (!is_fp8(stored) && stored != DType::kF32 && stored != DType::kBF16 && stored != DType::kF16)
    return "w13 is " + std::string(name(stored)) + ": weights are f32, bf16, f16 or fp8";
  if (stored != weights.w2.dtype) return "w13 and w2 have different dtypes";
  if (auto why = scale_refusal("w13_scale", weights.w13, weights.w13_scale)) return why;
  if (auto why = scale_refusal("w2_scale", weights.w2, weights.w2_scale)) return why;
  if (options.fp8_activations && !is_fp8(weights.w13.dtype))
    return "fp8 activations with " + std::string(name(weights.w13.dtype)) +
           " weights: w8a8 needs fp8 weights";
  if (options.fp8_activations && options.quant.group != 128)
    return "activation groups of " + text(options.quant.group) + ": block scales of weights are 128 wide";
  return std::nullopt;
}

std::vector<Bounded> expert_slots(ConstView hidden_states, const ExpertWeights& weights,
                                  const Routing& routing, const ExpertsOptions& options) {
  return ExpertsReference(hidden_states, weights, routing, options).run();
}

std::vector<Bounded> reduce_experts(const std::vector<Bounded>& slots, const Routing& routing,
                                    const ExpertsOptions& options) {
  const std::int64_t topk = routing.topk, hidden = options.hidden;
  std::vector<Bounded> out(static_cast<std::size_t>(routing.tokens() * hidden)),
      terms(static_cast<std::size_t>(topk));
  std::vector<std::int64_t> order(
      static_cast<std::size_t>(topk));  // global ids, -1 for slots that are not here
  CombineOptions scale;
  scale.plan = options.reduce_scale == 1 ? ScalePlan{} : ScalePlan::of(ScalePlace::kReduce);
  scale.routed_scaling_factor = options.reduce_scale;
  for (std::int64_t t = 0; t < routing.tokens(); ++t) {
    for (std::int64_t k = 0; k < topk; ++k) {
      const auto s = static_cast<std::size_t>(t * topk + k);
      order[static_cast<std::size_t>(k)] = routing.ids[s] < 0 ? -1 : routing.experts[s];
    }
    for (std::int64_t h = 0; h < hidden; ++h) {
      for (std::int64_t k = 0; k < topk; ++k)
        terms[static_cast<std::size_t>(k)] = slots[static_cast<std::size_t>((t * topk + k) * hidden + h)];
      const Bounded reduced = reduce_slots(terms.data(), order.data(), topk, options.dtype, options.reduce);
      out[static_cast<std::size_t>(t * hidden + h)] = scale_and_add(reduced, std::nullopt, scale);
    }
  }
  return out;
}

std::vector<Bounded> experts(const ExpertsInputs& inputs, const ExpertsOptions& options) {
  if (const auto why = refusal(options, inputs.hidden_states, inputs.weights))
    throw std::invalid_argument(*why);
  const Routing routing = make_routing(inputs.topk_ids, inputs.topk_weights, inputs.expert_map, options);
  if (routing.tokens() != inputs.hidden_states.shape[0])
    throw std::invalid_argument("topk_ids has " + text(routing.tokens()) + " rows, hidden_states " +
                                text(inputs.hidden_states.shape[0]));
  return reduce_experts(expert_slots(inputs.hidden_states, inputs.weights, routing, options), routing,
                        options);
}

}  // namespace moecheck::reference
