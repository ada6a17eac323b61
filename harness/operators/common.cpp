#include "harness/operators/common.h"

#include <fmt/format.h>

#include <cmath>
#include <set>

#include "harness/models.h"
#include "reference/scale_diagnosis.h"

namespace moecheck::harness {
namespace {

using reference::Accumulate;
using reference::Activation;
using reference::Clamp;
using reference::ExpertsOptions;
using reference::QuantDivision;
using reference::ReduceOrder;
using reference::Rounding;
using reference::RouterWeight;
using reference::ScaleFormat;
using reference::ScalePlace;
using reference::ScalePlan;

// The integers of common_data.cpp keep sums in bf16 exact up to this many slots of a token.
constexpr std::int64_t kExactSlots = 18;

std::optional<std::string> exact_experts_refusal(const Case& c) {
  const std::string what = "data=integers";
  if (c.choice("activation") != "silu")
    return what + " needs activation=silu: " + std::string(c.choice("activation")) +
           " is exact nowhere; use data=realistic";
  if (c.choice("quant") == "fp8_block" && c.choice("division") == "any")
    return what + " needs division=divide or reciprocal: division=any leaves the scales open";
  if (c.choice("clamp") != "none" && c.real("limit") < 4096)
    return fmt::format(
        "{} with clamp={} needs limit>=4096, where it clamps nothing: limit={}; use data=realistic", what,
        c.choice("clamp"), c.real("limit"));
  if (c.integer("hidden") < 4) return fmt::format("{} needs hidden>=4: hidden={}", what, c.integer("hidden"));
  if (c.integer("topk") > kExactSlots)
    return fmt::format("{} keeps sums exact for at most {} slots: topk={}", what, kExactSlots,
                       c.integer("topk"));
  return std::nullopt;
}

}  // namespace

bool is_power_of_two(double v) {
  int exponent = 0;
  return v > 0 && std::frexp(v, &exponent) == 0.5;
}

void write_rounded(Tensor& out, std::span<const reference::Bounded> values) {
  const View view = out.view();
  for (std::size_t i = 0; i < values.size(); ++i) view.set(static_cast<std::int64_t>(i), values[i].value);
}

Field rounding_field(std::string name, std::string_view value, std::string doc) {
  // The order of reference::Rounding.
  return choice_field(std::move(name), {"round", "none", "any"}, std::move(doc), value);
}

Field data_field(std::vector<std::string> kinds) {
  return choice_field("data", std::move(kinds),
                      "how the inputs are made: like a real model's, in exact integers, or to be hard in the "
                      "way the name says");
}

Case make_case(const Schema& schema, std::string_view line) {
  return parse_case(schema, fmt::format("{} {}", schema.name, line));
}

void add_case(std::vector<Case>& cases, const Operator& op, Case c) {
  if (!op.refusal(c)) cases.push_back(std::move(c));
}

void add_product(std::vector<Case>& cases, const Operator& op,
                 const std::vector<std::vector<std::string>>& axes) {
  std::vector<std::string> lines = {""};
  for (const auto& axis : axes) {
    std::vector<std::string> longer;
    for (const std::string& line : lines)
      for (const std::string& alternative : axis) longer.push_back(line + " " + alternative);
    lines = std::move(longer);
  }
  for (const std::string& line : lines) add_case(cases, op, make_case(op.schema(), line));
}

void add_random(std::vector<Case>& cases, const Operator& op, int count,
                const std::vector<std::vector<std::string>>& axes) {
  const Random random(1, op.name());
  std::uint64_t position = 0;
  const std::size_t wanted = cases.size() + static_cast<std::size_t>(count);
  for (int draw = 0; cases.size() < wanted && draw < 20 * count; ++draw) {
    std::string line = fmt::format("seed={}", draw + 1);
    for (const auto& axis : axes)
      line += " " + axis[at(random.integer(position++, 0, static_cast<std::int64_t>(axis.size()) - 1))];
    add_case(cases, op, make_case(op.schema(), line));
  }
}

std::vector<Case> cases_of(const Operator& op, Suite suite, const SuiteFillers& fillers) {
  const std::array<SuiteFillers::Fill, 4> fill = {fillers.quick, fillers.models, fillers.adversarial,
                                                  fillers.full};
  std::vector<Case> cases;
  fill[static_cast<std::size_t>(suite)](cases, op);
  return each_once(std::move(cases));
}

std::vector<Case> each_once(std::vector<Case> cases) {
  std::set<std::string> seen;
  std::erase_if(cases, [&](const Case& c) { return !seen.insert(c.str()).second; });
  return cases;
}

std::vector<std::string> policy_axis(const Schema& schema) {
  std::vector<std::string> axis;
  for (const Preset& p : schema.policies) axis.push_back("policy=" + p.name);
  return axis;
}

std::vector<std::string> model_axis() {
  std::vector<std::string> axis;
  for (const Model& m : models()) axis.push_back("model=" + m.preset.name);
  return axis;
}

Case with_tokens(const Case& c, std::int64_t tokens) {
  return with_field(c, "tokens", fmt::format("{}", tokens));
}

Case with_field(const Case& c, std::string_view field, std::string_view value) {
  Case changed = c;
  changed.edits.clear();
  changed.set(field, value);
  return changed;
}

std::optional<std::string> edits_refusal(const Case& c, std::int64_t rows, std::int64_t columns) {
  for (const Edit& e : c.edits) {
    const EditKind* kind = c.schema().find_edit(e.kind);
    if (e.row >= rows)
      return fmt::format("edit={}:{} is outside the {} rows: use a lower row", e.kind, e.row, rows);
    if (kind->positions > 1 && e.col >= columns)
      return fmt::format("edit={}:{}:{} is outside the {} columns: use a lower column", e.kind, e.row, e.col,
                         columns);
    if (data_is(c, "integers") && e.kind == "nan")
      return fmt::format("edit=nan:{} with data=integers: a NaN is not exact; use data=realistic", e.row);
  }
  return std::nullopt;
}

std::optional<std::string> exact_factor_refusal(const Case& c) {
  const double rsf = c.real("rsf");
  if (!data_is(c, "integers") || (is_power_of_two(rsf) && rsf >= 0.0625 && rsf <= 16)) return std::nullopt;
  return fmt::format("data=integers needs rsf to be a power of two from 1/16 to 16: rsf={}; use rsf=2", rsf);
}

std::optional<std::string> ep_refusal(const Case& c) {
  const std::int64_t experts = c.integer("experts"), size = c.integer("ep_size"), rank = c.integer("ep_rank");
  if (experts % size != 0)
    return fmt::format("ep_size={} does not divide experts={}: each rank has as many; use a divisor", size,
                       experts);
  if (rank >= size) return fmt::format("ep_rank={} is not below ep_size={}", rank, size);
  return std::nullopt;
}

std::optional<std::string> routing_refusal(const Case& c) {
  const std::int64_t topk = c.integer("topk"), experts = c.integer("experts");
  if (topk > experts)
    return fmt::format("topk={} exceeds experts={}: the ids of a token are distinct; use topk<={}", topk,
                       experts, experts);
  return std::nullopt;
}

ScalePlan scale_plan(const Case& c) {
  const bool fused = c.flag("fused");
  const std::string_view place_name = c.choice("place");
  ScalePlan plan;
  plan.fused_shared = fused;
  plan.renormalized = c.flag("renormalize");
  if (place_name == "runner_half") {
    plan.half_runner = true;
    return plan.with(ScalePlace::kRunner).with(ScalePlace::kResidualStream);
  }
  ScalePlace place{};
  reference::parse_scale_place(place_name, place);
  plan = plan.with(place);
  const bool in_weights = place == ScalePlace::kTopkWeights || place == ScalePlace::kTopkWeightsAndShared;
  return fused && !in_weights ? plan.with(ScalePlace::kPreDividedShared) : plan;
}

std::string scale_cause(std::span<const double> out, std::span<const double> routed,
                        std::span<const double> shared, const Case& c, const ScalePlan& plan) {
  constexpr double kExplained = 0.05;
  const double rsf = c.real("rsf");
  reference::ScaleFit fit = reference::fit_scale(out, routed, shared);
  if (!(fit.residual <= kExplained) || fit.dependent) {
    if (!shared.empty() || !(fit.residual <= kExplained)) return {};
    fit.beta = plan.target(rsf).beta;  // without shared experts alpha alone speaks
    fit.dependent = false;
  }
  if (plan.has(ScalePlace::kResidualStream))
    fit.alpha *= rsf, fit.beta *= rsf;  // the stream is kept divided by rsf
  reference::DiagnosisContext context;
  context.routed_scaling_factor = rsf;
  context.shared_slots = static_cast<int>(c.integer("n_shared"));
  const int ep = c.schema().find("ep_size");
  if (ep >= 0) context.ep_size = static_cast<int>(c.value(ep).i);
  const reference::ScaleDiagnosis diagnosis = reference::diagnose_scale(fit.alpha, fit.beta, context);
  return diagnosis.correct || diagnosis.name == "unknown" ? std::string() : reference::describe(fit, context);
}

std::vector<Field> expert_fields() {
  return {
      int_field("hidden", 64, 1, 1 << 16, "width of the hidden state (H)"),
      int_field("intermediate", 32, 1, 1 << 16, "width of one expert (I), after tensor parallelism"),
      dtype_field("dtype", {DType::kBF16, DType::kF16, DType::kF32},
                  "T: hidden states, intermediates, output; weights without quant"),
      dtype_field("ids", {DType::kI32, DType::kI64}, "of topk_ids"),
      choice_field("quant", {"none", "fp8_block", "fp8_weight_only"},
                   "fp8_block: weights per 128x128 block, activations per token and 128; fp8_weight_only: "
                   "weights alone"),
      dtype_field("fp8", {DType::kE4M3FN, DType::kE4M3FNUZ}, "of quantized weights and activations"),
      choice_field("division", {"divide", "reciprocal", "any"},
                   "how activations are quantized: reference/fp8_block.h", "any"),
      choice_field("scale_format", {"f32", "ue8m0"}, "of activation scales"),
      flag_field("nan_saturates", false,
                 "fp8: a NaN activation becomes the lowest number (fmaxf) instead of staying NaN"),
      choice_field("layout", {"gate_up", "up_gate", "interleaved"}, "rows of w13"),
      choice_field("activation", {"silu", "swiglu_oai"}, "between the GEMMs"),
      choice_field("clamp", {"none", "before_silu", "after_silu"}, "of gate and up"),
      real_field("limit", 10, 0, 1e6, "of the clamp; 0 is no clamp"),
      rounding_field("round_gate_up", "any", "to T: what the first GEMM stores"),
      rounding_field("round_silu", "any", "to T: silu(gate), before the product"),
      rounding_field("round_product", "any", "to T: what the second GEMM (or its quantizer) reads"),
      rounding_field("round_slot", "any", "to T: each slot's output with its weight"),
      choice_field("accumulate", {"f32", "dtype"}, "width in which a token's slots are added"),
      choice_field("order", {"slot", "expert", "any"}, "in which they are added", "any"),
      int_field("ep_size", 1, 1, 256, "expert-parallel ranks: experts are dealt in contiguous ranges"),
      int_field("ep_rank", 0, 0, 255, "this rank"),
  };
}

std::optional<std::string> expert_fields_refusal(const Case& c) {
  if (auto why = ep_refusal(c)) return why;
  if (auto why = routing_refusal(c)) return why;
  if (data_is(c, "integers")) {
    if (auto why = exact_experts_refusal(c)) return why;
    if (auto why = exact_factor_refusal(c)) return why;
  }
  if (data_is(c, "subnormal") && c.choice("quant") != "none" && c.dtype("dtype") != DType::kF16)
    return fmt::format("data=subnormal with quant={}: block scales under 2^-110 are flushed; use dtype=f16",
                       c.choice("quant"));
  if (data_is(c, "large") && c.choice("quant") == "fp8_block" && c.dtype("dtype") == DType::kF16)
    return std::string(
        "data=large with quant=fp8_block and dtype=f16: a code that rounds the other way may overflow; use "
        "dtype=bf16");
  for (const Edit& e : c.edits)
    if (e.kind == "nan" && c.choice("clamp") != "none")
      return fmt::format("edit=nan with clamp={}: fminf drops a NaN, a comparison keeps it; use clamp=none",
                         c.choice("clamp"));
  const double gib = static_cast<double>(c.integer("experts") / c.integer("ep_size")) * 3 *
                     static_cast<double>(c.integer("hidden")) *
                     static_cast<double>(c.integer("intermediate")) *
                     (c.choice("quant") == "none" ? reference::size_bytes(c.dtype("dtype")) : 1) / 0x1p30;
  if (gib > 8)
    return fmt::format(
        "the experts need {:.1f} GiB: use fewer experts, a larger ep_size, or intermediate/tensor-parallel "
        "ranks",
        gib);
  return std::nullopt;
}

ExpertsOptions experts_options(const Case& c) {
  ExpertsOptions o;
  o.hidden = c.integer("hidden");
  o.intermediate = c.integer("intermediate");
  o.topk = c.integer("topk");
  o.experts = c.integer("experts");
  o.local_experts = o.experts / c.integer("ep_size");
  o.dtype = c.dtype("dtype");
  o.fp8_activations = c.choice("quant") == "fp8_block";
  o.quant.dtype = c.dtype("fp8");
  o.quant.division = c.choice_as<QuantDivision>("division");
  o.quant.nan_saturates = c.flag("nan_saturates");
  o.quant.scale_format = c.choice_as<ScaleFormat>("scale_format");
  o.activation.layout = c.choice_as<reference::GateUpLayout>("layout");
  o.activation.activation = c.choice_as<Activation>("activation");
  o.activation.clamp = c.choice_as<Clamp>("clamp");
  o.activation.limit = c.real("limit");
  o.activation.dtype = o.dtype;
  o.activation.round_silu = c.choice_as<Rounding>("round_silu");
  o.activation.round_product = c.choice_as<Rounding>("round_product");
  o.router_weight = c.choice_as<RouterWeight>("router_weight");
  o.round_gate_up = c.choice_as<Rounding>("round_gate_up");
  o.round_slot = c.choice_as<Rounding>("round_slot");
  o.reduce.accumulate = c.choice_as<Accumulate>("accumulate");
  o.reduce.order = c.choice_as<ReduceOrder>("order");
  if (c.choice("place") == "reduce") o.reduce_scale = c.real("rsf");
  return o;
}

std::vector<TensorSpec> mlp_specs(const Case& c, std::string_view prefix, std::optional<std::int64_t> experts,
                                  std::int64_t intermediate) {
  const std::int64_t hidden = c.integer("hidden");
  const bool fp8 = c.choice("quant") != "none";
  const DType dtype = fp8 ? c.dtype("fp8") : c.dtype("dtype");
  const auto shape = [&](std::int64_t rows, std::int64_t columns) {
    return experts ? Shape(*experts, rows, columns) : Shape(rows, columns);
  };
  const auto blocks = [&](std::int64_t rows, std::int64_t columns) {
    return shape(ceil_div(rows, 128), ceil_div(columns, 128));
  };
  const auto tensor = [&](std::string_view what) { return fmt::format("{}{}", prefix, what); };
  std::vector<TensorSpec> specs = {
      {tensor("w13"), dtype, shape(2 * intermediate, hidden), "gate and up, rows by `layout`"},
      {tensor("w2"), dtype, shape(hidden, intermediate), "down"},
  };
  if (!fp8) return specs;
  specs.push_back({tensor("w13_scale"), DType::kF32, blocks(2 * intermediate, hidden),
                   "per 128x128 block, multiplies", true});
  specs.push_back(
      {tensor("w2_scale"), DType::kF32, blocks(hidden, intermediate), "per 128x128 block, multiplies", true});
  return specs;
}

}  // namespace moecheck::harness
