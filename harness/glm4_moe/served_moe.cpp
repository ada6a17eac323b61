#include "harness/glm4_moe/served_moe.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "harness/fault.h"
#include "harness/implementations/faults.h"
#include "harness/operator.h"
#include "harness/operators/operators.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using reference::ConstView;
using reference::Glm4MoeConfig;
using reference::View;

// Operators whose code a MoE block runs: a fault in any of them shows in it.
bool runs_in_block(std::string_view op) {
  return op == "moe_block" || op == "gating" || op == "routed_scaling" || op == "experts" ||
         op == "shared_experts";
}

const Implementation& implementation(const std::string& name) {
  if (const Implementation* found = find_implementation(name)) return *found;
  std::vector<std::string> names;
  for (const Implementation* impl : implementations()) names.emplace_back(impl->name());
  throw UsageError(
      fmt::format("MoE implementation '{}' is not known: did you mean {}? `moecheck list implementations` "
                  "shows all",
                  printable(name), nearest(name, names)));
}

void copy(ConstView from, Tensor& to) {
  if (static_cast<std::size_t>(from.shape.numel() * reference::size_bytes(from.dtype)) != to.bytes())
    throw std::logic_error(fmt::format("tensor '{}' has another size than the checkpoint's", to.name()));
  std::memcpy(to.data(), from.data, to.bytes());
}

Case block_case(const Glm4MoeConfig& c, DType dtype, const ServedMoeOptions& o) {
  Case line(moe_block_operator().schema());
  line.set("policy", !o.policy.empty() ? o.policy : o.fused ? "sglang_cuda_fused" : "hf_deepseek_v3");
  line.set("fused", std::int64_t{o.fused});
  line.set("experts", c.experts).set("groups", c.groups).set("topk_group", c.topk_group).set("topk", c.topk);
  line.set("n_shared", c.shared_experts).set("renormalize", std::int64_t{c.norm_topk_prob});
  line.set("rsf", fmt::format("{}", HARNESS_FAULT(kServedScaleDefault) ? 1 : c.routed_scaling_factor));
  line.set("hidden", c.hidden).set("intermediate", c.moe_intermediate);
  line.set("dtype", reference::name(dtype)).set("logits", "f32").set("bias", "f32");
  return line;
}

}  // namespace

ServedFault parse_served_fault(const std::string& text, const Glm4MoeConfig& config) {
  ServedFault fault;
  const std::size_t at = text.find('@');
  fault.name = text.substr(0, at);
  std::vector<std::string> known;
  for (const PlantedFault& f : planted_faults()) {
    if (!runs_in_block(f.op) && f.op != "attention") continue;
    known.emplace_back(f.name);
    if (f.name == fault.name) fault.op = f.op;
  }
  if (fault.op.empty())
    throw UsageError(
        fmt::format("fault '{}' is not one that a served model can have: did you mean {}? `moecheck list "
                    "faults` shows all",
                    printable(fault.name), nearest(fault.name, known)));
  if (at == std::string::npos) return fault;
  const std::string where = text.substr(at + 1);
  std::int64_t layer = -1;
  const auto [end, error] = std::from_chars(where.data(), where.data() + where.size(), layer);
  if (where == "mtp")
    layer = config.mtp_layers > 0 ? config.layers : -1;
  else if (error != std::errc() || end != where.data() + where.size())
    layer = -1;
  if (layer < config.first_dense || layer >= config.layers + config.mtp_layers)
    throw UsageError(fmt::format("fault '{}': layer '{}' is not a MoE layer of this model: use {} to {}{}",
                                 fault.name, printable(where), config.first_dense, config.layers - 1,
                                 config.mtp_layers > 0 ? ", or mtp" : ""));
  if (fault.op == "attention")
    throw UsageError(fmt::format("fault '{}' is in every layer's attention: leave '@{}' out", fault.name,
                                 printable(where)));
  fault.layer = layer;
  return fault;
}

struct ServedMoe::Layer {
  const Implementation* implementation = nullptr;
  TensorSet inputs, outputs;
  std::int64_t tokens = -1;
};

ServedMoe::~ServedMoe() = default;

// The fat shared MLP cut into the slots behind the routed experts, by the loader's operator.
void ServedMoe::load_fused(const reference::MoeWeights& w, Layer& layer, const Implementation& loader) {
  const Glm4MoeConfig& c = checkpoint_.config;
  Case line(shared_experts_operator().schema());
  line.set("policy", "split").set("n_shared", c.shared_experts).set("experts", c.experts);
  line.set("hidden", c.hidden).set("intermediate", c.moe_intermediate);
  line.set("dtype", reference::name(w.w13.dtype));
  const Operator& op = shared_experts_operator();
  TensorSet in(op.inputs(line)), out(op.outputs(line));
  const std::int64_t half = c.shared_experts * c.moe_intermediate;
  const ConstView gate_up = w.shared.gate_up;
  const auto* up =
      static_cast<const std::byte*>(gate_up.data) + half * c.hidden * reference::size_bytes(gate_up.dtype);
  copy({gate_up.data, gate_up.dtype, Shape(half, c.hidden)}, in.at("gate"));
  copy({up, gate_up.dtype, Shape(half, c.hidden)}, in.at("up"));
  copy(w.shared.down, in.at("down"));
  loader.run(line, in, out, {1});
  for (const auto& [name, routed] : {std::pair{"w13", w.w13}, {"w2", w.w2}}) {
    Tensor& stack = layer.inputs.at(name);
    const std::size_t bytes =
        static_cast<std::size_t>(routed.shape.numel() * reference::size_bytes(routed.dtype));
    std::memcpy(stack.data(), routed.data, bytes);
    if (!HARNESS_FAULT(kLoaderSharedSlotsZero))
      std::memcpy(stack.data() + bytes, out.at(name).data(), out.at(name).bytes());
  }
}

ServedMoe::ServedMoe(const Glm4MoeCheckpoint& checkpoint, DType dtype, ServedMoeOptions options)
    : checkpoint_(checkpoint),
      options_(std::move(options)),
      base_(block_case(checkpoint.config, dtype, options_)) {
  const Glm4MoeConfig& c = checkpoint.config;
  const Implementation& right = implementation(options_.implementation);
  if (right.runs_in_workers_only())
    throw UsageError(fmt::format("MoE implementation '{}' runs in processes of its own, which a model's layers cannot: use cpu, "
                                 "cpu-baseline or gpu-host, and check '{}' by moecheck check moe_block",
                                 right.name(), right.name()));
  if (const auto why = moe_block_operator().refusal(base_))
    throw UsageError(fmt::format("this model's MoE block is refused: {}", *why));
  if (const auto why = right.unsupported(base_))
    throw UsageError(fmt::format("MoE implementation '{}' cannot run this model: {}", right.name(), *why));
  const bool faulty = options_.fault && runs_in_block(options_.fault->op);
  for (std::int64_t i = 0; i < c.layers + c.mtp_layers; ++i) {
    layers_.push_back(nullptr);
    if (c.is_dense(i)) continue;
    auto layer = std::make_unique<Layer>();
    const Implementation& wrong = faulty ? implementation("cpu!" + options_.fault->name) : right;
    const bool here = faulty && options_.fault->in_layer(i);
    layer->implementation = here ? &wrong : &right;
    const auto& w = i < c.layers ? checkpoint.weights.layers[static_cast<std::size_t>(i)].moe
                                 : checkpoint.weights.mtp->layer.moe;
    layer->inputs = TensorSet(moe_block_operator().inputs(case_of(i, 0)));
    copy(w.bias, layer->inputs.at("e_score_correction_bias"));
    if (options_.fused) {
      load_fused(w, *layer, here ? wrong : implementation("cpu"));
    } else {
      copy(w.w13, layer->inputs.at("w13"));
      copy(w.w2, layer->inputs.at("w2"));
      if (c.shared_experts > 0) {
        copy(w.shared.gate_up, layer->inputs.at("shared_w13"));
        copy(w.shared.down, layer->inputs.at("shared_w2"));
      }
    }
    layers_.back() = std::move(layer);
  }
}

Case ServedMoe::case_of(std::int64_t, std::int64_t tokens) const {
  Case line = base_;
  line.set("tokens", tokens);
  return line;
}

TensorSet ServedMoe::inputs_of(std::int64_t layer, std::int64_t tokens) const {
  const Case line = case_of(layer, tokens);
  TensorSet all(moe_block_operator().inputs(line));
  for (Tensor& t : all.tensors())
    if (t.name() != "hidden_states" && t.name() != "router_logits")
      copy(layers_[static_cast<std::size_t>(layer)]->inputs.at(t.name()).view(), t);
  return all;
}

void ServedMoe::run(std::int64_t index, ConstView hidden_states, ConstView router_logits, View out) {
  Layer& layer = *layers_[static_cast<std::size_t>(index)];
  const std::int64_t tokens = hidden_states.shape[0];
  const Case line = case_of(index, tokens);
  if (tokens != layer.tokens) {
    layer.inputs.at("hidden_states") = Tensor("hidden_states", hidden_states.dtype, hidden_states.shape);
    layer.inputs.at("router_logits") = Tensor("router_logits", router_logits.dtype, router_logits.shape);
    layer.outputs = TensorSet(moe_block_operator().outputs(line));
    layer.tokens = tokens;
  }
  copy(hidden_states, layer.inputs.at("hidden_states"));
  copy(router_logits, layer.inputs.at("router_logits"));
  layer.implementation->run(line, layer.inputs, layer.outputs, {options_.threads});
  std::memcpy(out.data, layer.outputs.at("out").data(), layer.outputs.at("out").bytes());
}

}  // namespace moecheck::harness
