// Contract of attention: the normed hidden states of one sequence in, what the layer adds to them out (reference/glm4_moe.h).
#include "harness/operators/attention.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "harness/judge.h"
#include "harness/operators/common.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

using reference::Glm4MoeConfig;

Schema make_schema() {
  Schema s;
  s.name = "attention";
  s.fields = {
      int_field("tokens", 4, 0, 1 << 16, "positions of the sequence (T)"),
      int_field("hidden", 64, 1, 1 << 16, "width (H)"),
      int_field("heads", 4, 1, 1024, "query heads"),
      int_field("kv_heads", 2, 1, 1024, "key and value heads: a divisor of heads"),
      int_field("head_dim", 32, 1, 1024, "width of a head"),
      int_field("rotary_dim", 16, 0, 1024, "leading dimensions of a head that are rotated, in half-split pairs"),
      real_field("rope_theta", 10000, 1, 1e9, "base of the rotation's frequencies"),
      flag_field("qk_norm", true, "queries and keys are normalized per head, before the rotation"),
      flag_field("attention_bias", true, "q, k and v have a bias"),
      int_field("chunk", 0, 0, 1 << 16, "rows that enter the KV cache at once; 0: all. It may not change a bit"),
      // In bf16 the roundings that implementations may place differently make proven bounds as wide as 9% of the data.
      dtype_field("dtype", {DType::kF32}, "T: hidden states, weights, output"),
      fixed(data_field({"realistic", "zero_rows"})),
  };
  s.policies = {{"glm4_moe", "transformers, vLLM and SGLang on GLM-4-MoE", {}}};
  s.edits = {{"zero", "ROW of hidden_states is 0", 1}, {"nan", "ROW of hidden_states is NaN", 1}};
  return s;
}

const Schema& schema_of() {
  static const Schema schema = make_schema();
  return schema;
}

// With other rows behind `keep`, the rows before them must not change.
void causal(const Trial& trial) {
  const std::int64_t tokens = trial.c.integer("tokens"), keep = tokens / 2;
  if (tokens < 2) throw NotApplicable("it needs tokens>=2");
  TensorSet inputs = trial.inputs;
  const View rows = inputs.view("hidden_states");
  for (std::int64_t i = keep * rows.shape[1]; i < rows.shape.numel(); ++i) rows.set(i, 1.0 - 2.0 * ConstView(rows).at(i));
  Trial::require_rows_equal(trial.run(trial.c, inputs), 0, keep, trial.outputs, 0, "out");
}

void chunked(const Trial& trial) {
  const std::int64_t tokens = trial.c.integer("tokens");
  if (tokens < 2) throw NotApplicable("it needs tokens>=2");
  for (const std::int64_t chunk : {std::int64_t{1}, (tokens + 1) / 2}) {
    Case c = trial.c;
    c.set("chunk", chunk);
    Trial::require_rows_equal(trial.run(c, trial.inputs), 0, tokens, trial.outputs, 0, "out");
  }
}

void shorter(const Trial& trial) {
  const std::int64_t tokens = trial.c.integer("tokens"), keep = tokens - 1;
  if (tokens < 2) throw NotApplicable("it needs tokens>=2");
  if (!trial.c.edits.empty()) throw NotApplicable("an edit may name the row that is cut");
  const Case c = with_tokens(trial.c, keep);
  TensorSet inputs;
  for (const Tensor& t : trial.inputs.tensors()) {
    if (t.name() != "hidden_states") {
      inputs.add(t);
      continue;
    }
    Tensor& cut = inputs.add(Tensor(t.name(), t.dtype(), Shape(keep, t.shape()[1])));
    std::copy_n(t.data(), cut.bytes(), cut.data());
  }
  Trial::require_rows_equal(trial.run(c, inputs), 0, keep, trial.outputs, 0, "out");
}

constexpr std::array<Relation, 3> kRelations = {
    Relation{"causal", "later tokens do not change the rows of earlier ones", causal},
    Relation{"cache_chunks", "filling the KV cache in chunks changes no bit", chunked},
    Relation{"shorter_sequence", "a sequence without its last token has the same rows", shorter},
};

class Attention final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "causal self-attention of GLM-4-MoE: projections, per-head norm, partial rotation, paged KV cache";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    if (c.integer("heads") % c.integer("kv_heads") != 0)
      return fmt::format("heads={} is not a multiple of kv_heads={}", c.integer("heads"), c.integer("kv_heads"));
    if (c.integer("rotary_dim") > c.integer("head_dim") || c.integer("rotary_dim") % 2 != 0)
      return fmt::format("rotary_dim={} must be even and at most head_dim={}", c.integer("rotary_dim"),
                         c.integer("head_dim"));
    return edits_refusal(c, c.integer("tokens"), 1);
  }

  std::vector<TensorSpec> inputs(const Case& c) const override {
    const DType t = c.dtype("dtype");
    const std::int64_t hidden = c.integer("hidden"), dim = c.integer("head_dim"), q = c.integer("heads") * dim,
                       kv = c.integer("kv_heads") * dim;
    std::vector<TensorSpec> specs = {{"hidden_states", t, Shape(c.integer("tokens"), hidden), "[tokens, hidden], normed"},
                                     {"q_proj", t, Shape(q, hidden), "[heads * head_dim, hidden]"},
                                     {"k_proj", t, Shape(kv, hidden), "[kv_heads * head_dim, hidden]"},
                                     {"v_proj", t, Shape(kv, hidden), "[kv_heads * head_dim, hidden]"},
                                     {"o_proj", t, Shape(hidden, q), "[hidden, heads * head_dim]"}};
    if (c.flag("attention_bias"))
      for (const auto& [name, n] : {std::pair{"q_bias", q}, {"k_bias", kv}, {"v_bias", kv}})
        specs.push_back({name, t, Shape(n), "when attention_bias=1", true});
    if (c.flag("qk_norm"))
      for (const char* name : {"q_norm", "k_norm"}) specs.push_back({name, t, Shape(dim), "when qk_norm=1", true});
    return specs;
  }
  std::vector<TensorSpec> outputs(const Case& c) const override {
    return {{"out", c.dtype("dtype"), Shape(c.integer("tokens"), c.integer("hidden")), "[tokens, hidden]"}};
  }

  void generate(const Case& c, TensorSet& inputs) const override {
    fill_hidden_states(c, inputs.at("hidden_states"));
    for (Tensor& t : inputs.tensors()) {
      const Random random(c.seed, t.name());
      if (t.name() == "hidden_states") continue;
      const bool matrix = t.shape().rank == 2, norm = t.name().ends_with("_norm");
      fill_normal(t, random, matrix ? 1 / std::sqrt(static_cast<double>(t.shape()[1])) : norm ? 0.2 : 0.5);
      if (norm)
        for (std::int64_t i = 0; i < t.shape().numel(); ++i) t.view().set(i, 1.5 + std::as_const(t).view().at(i));
    }
  }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto expected = std::make_unique<BoundedOutput>();
    expected->out = reference::attention(attention_config(c), attention_weights(inputs), inputs.view("hidden_states"));
    return expected;
  }
  void judge(const Case& c, const TensorSet&, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    ElementRules rules;
    rules.may_be_zero = !c.edits.empty() || data_is(c, "zero_rows");
    judge_elements(j, outputs.at("out"), static_cast<const BoundedOutput&>(expected).out, rules);
  }
  void reference_outputs(const Case&, const TensorSet&, const Expected& expected, TensorSet& outputs) const override {
    write_rounded(outputs.at("out"), static_cast<const BoundedOutput&>(expected).out);
  }

  std::span<const Relation> relations() const override { return kRelations; }

  std::vector<Case> cases(Suite suite) const override {
    std::vector<Case> cases;
    if (suite == Suite::kQuick || suite == Suite::kFull)
      add_product(cases, *this,
                  {{"tokens=1", "tokens=5", "tokens=18", "tokens=33 chunk=7"},
                   {"", "heads=6 kv_heads=2 hidden=96 head_dim=16 rotary_dim=8", "qk_norm=0 attention_bias=0"}});
    if (suite == Suite::kAdversarial || suite == Suite::kFull)
      add_product(cases, *this,
                  {{"tokens=0", "data=zero_rows tokens=6", "tokens=6 edit=nan:5", "tokens=6 edit=zero:2",
                    "tokens=17 heads=1 kv_heads=1 head_dim=5 rotary_dim=2 hidden=7", "tokens=9 rotary_dim=0",
                    "tokens=9 rotary_dim=32", "tokens=130 heads=2 kv_heads=1 hidden=32 seed=2"}});
    if (suite == Suite::kModels || suite == Suite::kFull)
      // GLM-4.5-Air's heads at a small width: its attention is not what moecheck is for.
      add_product(cases, *this, {{"tokens=6 hidden=128 heads=12 kv_heads=1 head_dim=128 rotary_dim=64 rope_theta=1000000"}});
    return each_once(std::move(cases));
  }
};

}  // namespace

Glm4MoeConfig attention_config(const Case& c) {
  Glm4MoeConfig config;
  config.hidden = c.integer("hidden");
  config.heads = c.integer("heads"), config.kv_heads = c.integer("kv_heads"), config.head_dim = c.integer("head_dim");
  config.partial_rotary_factor = static_cast<double>(c.integer("rotary_dim")) / static_cast<double>(config.head_dim);
  config.rope_theta = c.real("rope_theta");
  config.qk_norm = c.flag("qk_norm"), config.attention_bias = c.flag("attention_bias");
  config.max_positions = std::max<std::int64_t>(c.integer("tokens"), 1);
  return config;
}

reference::AttentionWeights attention_weights(const TensorSet& in) {
  return {in.view("q_proj"), in.view("k_proj"), in.view("v_proj"), in.view("o_proj"), in.view("q_bias"),
          in.view("k_bias"), in.view("v_bias"), in.view("q_norm"), in.view("k_norm")};
}

const Operator& attention_operator() {
  static const Attention op;
  return op;
}

}  // namespace moecheck::harness
