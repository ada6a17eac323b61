// Contract of shared_experts (reference/shared_experts.h), in two forms:
//   form=slots     topk_ids and topk_weights get the slots of the fused shared experts
//   form=weights   the fat shared MLP of a checkpoint is cut into slots of the fused parameters: byte copies
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>

#include "harness/judge.h"
#include "harness/operators/common.h"
#include "harness/operators/operators.h"
#include "harness/operators/shared_experts.h"

namespace moecheck::harness {
namespace {

using reference::SharedExpertWeights;
using reference::SharedSlot;
using reference::SlotInsertion;
using reference::SlotInsertionOptions;
using reference::Slots;
using reference::WeightScale;
using reference::WeightTensor;

struct SharedExpected final : Expected {
  Slots slots;        // form=slots
  TensorSet weights;  // form=weights
};

Schema make_schema() {
  Schema s;
  s.name = "shared_experts";
  s.fields = {
      choice_field("form", {"slots", "weights"},
                   "what is fused: the slots of top-k, or the weights of the shared MLP"),
      int_field("n_shared", 1, 1, 16, "shared experts (n)"),
      int_field("experts", 8, 1, 4096, "routed experts (E): shared slots have ids E, E+1, ..."),
      int_field("tokens", 4, 0, 1 << 20, "form=slots: rows (M)"),
      int_field("topk", 2, 1, 64, "form=slots: routed slots (K)"),
      choice_field("insertion", {"sglang", "aiter_append", "vllm_rocm", "gated"},
                   "form=slots: whose rule (reference/shared_experts.h)"),
      flag_field("renormalize", true, "sglang: the scores are divided by their sum here"),
      flag_field("scale_flag", false, "sglang: all weights are multiplied by rsf"),
      real_field("rsf", 2.5, 1e-3, 1e3, "routed_scaling_factor"),
      real_field("append_weight", 1, 0, 1e3,
                 "aiter_append: weight of a shared slot; 1/ep_size where every rank computes it"),
      int_field("ep_size", 1, 1, 256, "vllm_rocm: expert-parallel ranks"),
      int_field("ep_rank", 0, 0, 255, "vllm_rocm: this rank"),
      dtype_field("ids", {DType::kI32, DType::kI64}, "of topk_ids"),
      int_field("hidden", 64, 1, 1 << 16, "form=weights: H"),
      int_field("intermediate", 32, 1, 1 << 16,
                "form=weights: rows of one slot (I); the fat MLP has n_shared times as many"),
      dtype_field("dtype", {DType::kBF16, DType::kF16, DType::kF32, DType::kE4M3FN, DType::kE4M3FNUZ},
                  "form=weights: of the weights; form=slots: of gate_logits"),
      choice_field("scale", {"none", "tensor", "channel", "block"},
                   "form=weights: what scales accompany a weight"),
      fixed(data_field({"realistic", "integers", "minus_one", "duplicate_tokens"})),
  };
  s.policies = {
      {"sglang", "CUDA: slot weight sum/rsf before renormalization", {}},
      {"sglang_flag", "the same with routed_scaling_factor fused in top-k", {{"scale_flag", "1"}}},
      {"aiter_append", "fused_append_shared_experts, weight 1", {{"insertion", "aiter_append"}}},
      {"vllm_rocm", "prefilled metadata buffers, weight 1", {{"insertion", "vllm_rocm"}}},
      {"qwen3_next", "weight sigmoid(gate logit)", {{"insertion", "gated"}}},
      {"split", "checkpoint to fused parameters", {{"form", "weights"}}},
      {"split_fp8",
       "the same with fp8 block scales",
       {{"form", "weights"},
        {"dtype", "e4m3fn"},
        {"scale", "block"},
        {"intermediate", "128"},
        {"hidden", "256"}}},
      {"split_ptpc",
       "per-channel scales: down is replicated",
       {{"form", "weights"}, {"dtype", "e4m3fn"}, {"scale", "channel"}}},
  };
  s.edits = {{"minus_one", "form=slots: id COL of ROW is -1", 2}};
  return s;
}

const Schema& schema_of() {
  static const Schema schema = make_schema();
  return schema;
}

bool is_slots(const Case& c) { return c.choice("form") == "slots"; }
bool has_gate(const Case& c) { return c.choice("insertion") == "gated"; }

std::optional<std::string> slots_refusal(const Case& c) {
  if (auto why = routing_refusal(c)) return why;
  const std::string_view insertion = c.choice("insertion");
  if (insertion == "vllm_rocm") {
    if (c.integer("ep_rank") >= c.integer("ep_size"))
      return fmt::format("ep_rank={} is not below ep_size={}", c.integer("ep_rank"), c.integer("ep_size"));
  } else if (c.integer("ep_size") > 1) {
    return fmt::format("insertion={} has no ranks: use insertion=vllm_rocm, or ep_size=1", insertion);
  }
  if (has_gate(c) && reference::size_bytes(c.dtype("dtype")) < 2)
    return fmt::format("dtype={} of gate_logits: use bf16, f16 or f32", c.choice("dtype"));
  if (!data_is(c, "integers")) return std::nullopt;
  if (insertion == "gated" || insertion == "sglang")
    return fmt::format(
        "data=integers needs weights that are copied: insertion={} computes them; use data=realistic",
        insertion);
  return std::nullopt;
}

std::optional<std::string> weights_refusal(const Case& c) {
  const std::int64_t intermediate = c.integer("intermediate"), n = c.integer("n_shared");
  if (c.choice("scale") == "block" && intermediate % 128 != 0)
    return fmt::format(
        "intermediate={} with scale=block: gate and up, or two slots, would share a block of scales; use a "
        "multiple of 128",
        intermediate);
  if (static_cast<double>(n * intermediate) * static_cast<double>(c.integer("hidden")) > 0x1p31)
    return fmt::format("n_shared={} intermediate={} hidden={}: more than 2^31 elements; use smaller sizes", n,
                       intermediate, c.integer("hidden"));
  if (!c.edits.empty()) return "form=weights has no rows to edit: drop edit=";
  return std::nullopt;
}

std::vector<TensorSpec> fat_specs(const Case& c) {
  const std::int64_t h = c.integer("hidden"), fat = c.integer("n_shared") * c.integer("intermediate");
  const DType dtype = c.dtype("dtype");
  std::vector<TensorSpec> specs = {{"gate", dtype, Shape(fat, h), "[n I, H]"},
                                   {"up", dtype, Shape(fat, h), "[n I, H]"},
                                   {"down", dtype, Shape(h, fat), "[H, n I]"}};
  const auto scales = [&](Shape gate, Shape down, const char* doc) {
    specs.push_back({"gate_scale", DType::kF32, gate, doc, true});
    specs.push_back({"up_scale", DType::kF32, gate, doc, true});
    specs.push_back({"down_scale", DType::kF32, down, doc, true});
  };
  switch (weight_scale(c)) {
    case WeightScale::kNone:
      break;
    case WeightScale::kTensor:
      scales(Shape(1), Shape(1), "per tensor");
      break;
    case WeightScale::kChannel:
      scales(Shape(fat), Shape(h), "per output channel");
      break;
    case WeightScale::kBlock:
      scales(Shape(ceil_div(fat, 128), ceil_div(h, 128)), Shape(ceil_div(h, 128), ceil_div(fat, 128)),
             "per 128x128 block");
      break;
  }
  return specs;
}

std::vector<TensorSpec> slot_weight_specs(const Case& c) {
  const std::int64_t h = c.integer("hidden"), i = c.integer("intermediate"), n = c.integer("n_shared");
  const DType dtype = c.dtype("dtype");
  std::vector<TensorSpec> specs = {{"w13", dtype, Shape(n, 2 * i, h), "[gate; up] of each slot"},
                                   {"w2", dtype, Shape(n, h, i), "down of each slot"}};
  const auto scales = [&](Shape w13, Shape w2) {
    specs.push_back({"w13_scale", DType::kF32, w13, "by `scale`", true});
    specs.push_back({"w2_scale", DType::kF32, w2, "by `scale`", true});
  };
  switch (weight_scale(c)) {
    case WeightScale::kNone:
      break;
    case WeightScale::kTensor:
      scales(Shape(n, 2), Shape(n, 1));
      break;
    case WeightScale::kChannel:
      scales(Shape(n, 2 * i), Shape(n, h));
      break;
    case WeightScale::kBlock:
      scales(Shape(n, 2 * ceil_div(i, 128), ceil_div(h, 128)), Shape(n, ceil_div(h, 128), ceil_div(i, 128)));
      break;
  }
  return specs;
}

void generate_slots(const Case& c, TensorSet& inputs) {
  const std::int64_t tokens = c.integer("tokens"), topk = c.integer("topk");
  fill_topk_ids(c, inputs.view("topk_ids"));
  const View weights = inputs.view("topk_weights");
  const bool raw = c.choice("insertion") == "sglang" && c.flag("renormalize");
  fill_topk_weights(c, weights, 1);
  for (std::int64_t s = 0; s < tokens * topk; ++s) {
    const std::int64_t row = source_row(c, s / topk);
    if (raw) weights.set(s, ConstView(weights).at(s) * (1 + static_cast<double>(row % 5)));
  }
  if (const View gate = inputs.view("gate_logits")) {
    const Random random(c.seed, "gate_logits");
    const std::int64_t n = c.integer("n_shared");
    for (std::int64_t i = 0; i < tokens * n; ++i)
      gate.set(i, 2 * random.normal(static_cast<std::uint64_t>(source_row(c, i / n) * n + i % n)));
  }
}

// Every byte counts, so every bit pattern may come, but NaN codes that a copy may quieten.
void generate_weights(const Case& c, TensorSet& inputs) {
  for (Tensor& t : inputs.tensors()) {
    const Random random(c.seed, t.name());
    if (t.dtype() == DType::kF32 && t.name().ends_with("_scale"))
      for (std::int64_t i = 0; i < t.shape().numel(); ++i)
        t.view().set(i, 0.5 + random.uniform(static_cast<std::uint64_t>(i)));
    else
      fill_normal(t, random, 1);
  }
}

WeightTensor owned(const TensorSet& inputs, std::string_view name) {
  const Tensor* t = inputs.find(name);
  if (t == nullptr) return {};
  WeightTensor w(t->dtype(), t->shape());
  std::memcpy(w.bytes.data(), t->data(), t->bytes());
  return w;
}

TensorSet split_weights(const Case& c, const TensorSet& inputs) {
  SharedExpertWeights fat{owned(inputs, "gate"),
                          owned(inputs, "up"),
                          owned(inputs, "down"),
                          owned(inputs, "gate_scale"),
                          owned(inputs, "up_scale"),
                          owned(inputs, "down_scale"),
                          weight_scale(c)};
  const std::vector<SharedSlot> slots =
      reference::split_shared_experts(fat, c.integer("n_shared"), c.integer("intermediate"));
  TensorSet out(slot_weight_specs(c));
  for (std::size_t j = 0; j < slots.size(); ++j)
    for (const auto& [name, part] : {std::pair{"w13", &slots[j].w13},
                                     {"w2", &slots[j].w2},
                                     {"w13_scale", &slots[j].w13_scale},
                                     {"w2_scale", &slots[j].w2_scale}})
      if (Tensor* t = out.find(name))
        std::memcpy(t->data() + j * part->bytes.size(), part->bytes.data(), part->bytes.size());
  return out;
}

Slots insert_slots(const Case& c, const TensorSet& inputs) {
  const ConstView ids_view = inputs.view("topk_ids"), weights_view = inputs.view("topk_weights"),
                  gate = inputs.view("gate_logits");
  std::vector<std::int64_t> ids;
  std::vector<reference::Bounded> weights;
  for (std::int64_t i = 0; i < ids_view.shape.numel(); ++i) {
    ids.push_back(ids_view.int_at(i));
    weights.push_back(reference::Bounded::exact(weights_view.at(i)));
  }
  std::vector<double> logits;
  for (std::int64_t i = 0; gate && i < gate.shape.numel(); ++i) logits.push_back(gate.at(i));
  return reference::insert_shared_slots(ids, weights, slot_insertion_options(c), logits);
}

class SharedExperts final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "shared experts fused as slots of the top-k: ids and weights, or the parameters";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    if (!is_slots(c)) return weights_refusal(c);
    if (auto why = edits_refusal(c, c.integer("tokens"), c.integer("topk"))) return why;
    return slots_refusal(c);
  }

  std::vector<TensorSpec> inputs(const Case& c) const override {
    if (!is_slots(c)) return fat_specs(c);
    const Shape shape(c.integer("tokens"), c.integer("topk"));
    std::vector<TensorSpec> specs = {{"topk_ids", c.dtype("ids"), shape, "[tokens, topk]"},
                                     {"topk_weights", DType::kF32, shape, "[tokens, topk]"}};
    if (has_gate(c))
      specs.push_back({"gate_logits", c.dtype("dtype"), Shape(c.integer("tokens"), c.integer("n_shared")),
                       "insertion=gated", true});
    return specs;
  }

  std::vector<TensorSpec> outputs(const Case& c) const override {
    if (!is_slots(c)) return slot_weight_specs(c);
    const Shape shape(c.integer("tokens"), slot_insertion_options(c).columns());
    return {{"out_ids", c.dtype("ids"), shape, "[tokens, topk + n_shared (+ 1)]"},
            {"out_weights", DType::kF32, shape, "the same"}};
  }

  void generate(const Case& c, TensorSet& inputs) const override {
    is_slots(c) ? generate_slots(c, inputs) : generate_weights(c, inputs);
  }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto expected = std::make_unique<SharedExpected>();
    if (is_slots(c))
      expected->slots = insert_slots(c, inputs);
    else
      expected->weights = split_weights(c, inputs);
    return expected;
  }

  void judge(const Case& c, const TensorSet&, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    const auto& e = static_cast<const SharedExpected&>(expected);
    if (!is_slots(c)) {
      for (const Tensor& want : e.weights.tensors()) judge_bytes(j, outputs.at(want.name()), want);
      return;
    }
    judge_integers(j, outputs.at("out_ids"), e.slots.ids, "expert id");
    ElementRules rules;
    rules.must_be_exact = data_is(c, "integers");
    judge_elements(j, outputs.at("out_weights"), e.slots.weights, rules);
  }

  std::string likely_cause(const Case& c, const TensorSet& inputs, const Expected& expected,
                           const TensorSet& outputs) const override {
    const auto& e = static_cast<const SharedExpected&>(expected);
    return is_slots(c) ? slots_cause(c, e.slots, outputs) : weights_cause(c, inputs, outputs);
  }

  void reference_outputs(const Case& c, const TensorSet&, const Expected& expected,
                         TensorSet& outputs) const override {
    const auto& e = static_cast<const SharedExpected&>(expected);
    if (!is_slots(c)) {
      for (Tensor& t : outputs.tensors()) std::memcpy(t.data(), e.weights.at(t.name()).data(), t.bytes());
      return;
    }
    for (std::size_t i = 0; i < e.slots.ids.size(); ++i)
      outputs.view("out_ids").set_int(static_cast<std::int64_t>(i), e.slots.ids[i]);
    write_rounded(outputs.at("out_weights"), e.slots.weights);
  }

  std::span<const Relation> relations() const override { return shared_experts_relations(); }
  std::vector<Case> cases(Suite suite) const override { return shared_experts_cases(suite); }
};

}  // namespace

WeightScale weight_scale(const Case& c) { return c.choice_as<WeightScale>("scale"); }

SlotInsertionOptions slot_insertion_options(const Case& c) {
  SlotInsertionOptions o;
  o.insertion = c.choice_as<SlotInsertion>("insertion");
  o.experts = c.integer("experts");
  o.topk = c.integer("topk");
  o.shared = c.integer("n_shared");
  o.renormalize = c.flag("renormalize");
  o.scale_flag = c.flag("scale_flag");
  o.routed_scaling_factor = c.real("rsf");
  o.append_weight = c.real("append_weight");
  o.ep_rank = c.integer("ep_rank");
  o.ep_size = c.integer("ep_size");
  return o;
}

const Operator& shared_experts_operator() {
  static const SharedExperts op;
  return op;
}

}  // namespace moecheck::harness
