#include "harness/localize/localize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/judge.h"
#include "harness/operators/common.h"
#include "harness/operators/operators.h"
#include "harness/runner.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using reference::Bounded;
using reference::ConstView;
using reference::Glm4MoeConfig;
using reference::Glm4MoeLayerWeights;

void copy(ConstView from, Tensor& to) { std::memcpy(to.data(), from.data, to.bytes()); }

class Localizer {
 public:
  Localizer(const Glm4MoeCheckpoint& checkpoint, const TensorSet& dump, const ServedMoeOptions& moe,
            const std::string& engine)
      : m_(checkpoint),
        c_(checkpoint.config),
        dump_(dump),
        engine_(engine),
        dtype_(dtype_of(dump)),
        ids_(read_ids()),
        blocks_(checkpoint, dtype_, judged_blocks(moe)) {}

  Localization run() {
    embed();
    for (std::int64_t i = 0; i < c_.layers; ++i) layer(i, m_.weights.layers[at(i)]);
    norm(-1, "norm", "norm.output", m_.weights.norm);
    linear(-1, "head", "norm.output", "logits", m_.weights.head);
    return std::move(result_);
  }

 private:
  static ServedMoeOptions judged_blocks(ServedMoeOptions moe) {
    moe.implementation = "reference";
    moe.fault.reset();
    return moe;
  }
  static DType dtype_of(const TensorSet& dump) {
    for (const Tensor& t : dump.tensors())
      if (t.name().ends_with(".input")) {
        if (t.dtype() != DType::kF32 && t.dtype() != DType::kBF16)
          throw UsageError(fmt::format("tensor '{}' is {}: activations must be F32 or BF16",
                                       printable(t.name()), reference::name(t.dtype())));
        return t.dtype();
      }
    throw UsageError(
        "the dump has no tensor 'layers.0.attention.input': see harness/localize/dump.h for its names");
  }
  std::vector<std::int32_t> read_ids() const {
    const Tensor* t = dump_.find("ids");
    if (t == nullptr || t->shape().rank != 1) throw UsageError("the dump has no tensor 'ids' [T]");
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < t->shape().numel(); ++i) {
      const std::int64_t id = t->view().int_at(i);
      if (id < 0 || id >= c_.vocab)
        throw UsageError(fmt::format("the dump's token {} is {}: the vocabulary has {}", i, id, c_.vocab));
      ids.push_back(static_cast<std::int32_t>(id));
    }
    return ids;
  }

  std::int64_t tokens() const { return static_cast<std::int64_t>(ids_.size()); }
  static std::string prefix(std::int64_t layer) { return layer < 0 ? "" : fmt::format("layers.{}.", layer); }

  // The dump's tensor, checked; nullptr when it is absent.
  const Tensor* find(const std::string& name, std::int64_t columns, DType dtype) const {
    const Tensor* t = dump_.find(name);
    if (t == nullptr) return nullptr;
    const Shape shape(tokens(), columns);
    if (!(t->shape() == shape) || t->dtype() != dtype)
      throw UsageError(fmt::format("the dump's tensor '{}' is {} {}: expected {} {}", printable(name),
                                   reference::name(t->dtype()), to_string(t->shape()), reference::name(dtype),
                                   to_string(shape)));
    return t;
  }
  bool have(std::int64_t layer, const char* name, std::initializer_list<const Tensor*> tensors) {
    if (std::all_of(tensors.begin(), tensors.end(), [](const Tensor* t) { return t != nullptr; }))
      return true;
    result_.missing.push_back(prefix(layer) + name);
    return false;
  }

  // ---- The residual stream, from the dump's own outputs
  void embed() {
    for (const std::int32_t id : ids_)
      for (std::int64_t i = 0; i < c_.hidden; ++i) residual_.push_back(m_.weights.embed.at(id, i));
  }
  void add(const Tensor* update) {
    residual_known_ = residual_known_ && update != nullptr;
    if (update == nullptr) return;
    for (std::size_t i = 0; i < residual_.size(); ++i)
      residual_[i] =
          reference::round_to(dtype_, residual_[i] + update->view().at(static_cast<std::int64_t>(i)));
  }

  // ---- Operators

  void keep(std::int64_t layer, const char* name, Record record, TensorSet inputs = {},
            TensorSet outputs = {}) {
    JudgedOperator op{layer, name, std::move(record), {}, {}};
    op.record.implementation = engine_;
    if (leaves_bound(op.record.result.verdict) && !op.record.case_line.empty())
      op.inputs = std::move(inputs), op.outputs = std::move(outputs);
    result_.operators.push_back(std::move(op));
  }
  void compare(std::int64_t layer, const char* name, const Tensor& got,
               const std::vector<Bounded>& expected) {
    Record r;
    r.operator_name = name;
    ElementRules rules;
    rules.may_be_zero = true;
    judge_elements(r.result, got, expected, rules);
    keep(layer, name, std::move(r));
  }

  // What the residual stream becomes under a norm; judged on the next operator's input.
  void norm(std::int64_t layer, const char* name, const std::string& output, ConstView weight) {
    const Tensor* got = find(prefix(layer) + output, c_.hidden, dtype_);
    if (!residual_known_ || !have(layer, name, {got})) return;
    Tensor x("x", dtype_, Shape(tokens(), c_.hidden));
    for (std::size_t i = 0; i < residual_.size(); ++i)
      x.view().set(static_cast<std::int64_t>(i), residual_[i]);
    compare(layer, name, *got, reference::rms_norm(std::as_const(x).view(), weight, c_.rms_norm_eps));
  }
  void linear(std::int64_t layer, const char* name, const std::string& input, const std::string& output,
              ConstView weight) {
    const Tensor* x = find(prefix(layer) + input, c_.hidden, dtype_);
    const Tensor* got = find(prefix(layer) + output, weight.shape[0], DType::kF32);
    if (!have(layer, name, {x, got})) return;
    std::vector<Bounded> expected = reference::linear(x->view(), weight);
    // Some engines store logits in the activations' dtype, some in fp32.
    if (dtype_ != DType::kF32 && layer < 0)
      for (Bounded& b : expected) b = reference::round_to(dtype_, b, reference::Rounding::kAny);
    compare(layer, name, *got, expected);
  }

  void attention(std::int64_t layer, const reference::AttentionWeights& w) {
    const Tensor* x = find(prefix(layer) + "attention.input", c_.hidden, dtype_);
    const Tensor* got = find(prefix(layer) + "attention.output", c_.hidden, dtype_);
    if (!have(layer, "attention", {x, got})) return;
    if (dtype_ != DType::kF32)
      return compare(layer, "attention", *got, reference::attention(c_, w, x->view()));
    Case line(attention_operator().schema());
    line.set("tokens", tokens()).set("hidden", c_.hidden).set("heads", c_.heads).set("kv_heads", c_.kv_heads);
    line.set("head_dim", c_.head_dim).set("rotary_dim", c_.rotary_dim());
    line.set("rope_theta", fmt::format("{}", c_.rope_theta));
    line.set("qk_norm", std::int64_t{c_.qk_norm}).set("attention_bias", std::int64_t{c_.attention_bias});
    TensorSet in(attention_operator().inputs(line));
    copy(x->view(), in.at("hidden_states"));
    for (const auto& [name, weight] : {std::pair{"q_proj", w.q},
                                       {"k_proj", w.k},
                                       {"v_proj", w.v},
                                       {"o_proj", w.o},
                                       {"q_bias", w.q_bias},
                                       {"k_bias", w.k_bias},
                                       {"v_bias", w.v_bias},
                                       {"q_norm", w.q_norm},
                                       {"k_norm", w.k_norm}})
      if (weight) copy(weight, in.at(name));
    judge(layer, "attention", line, std::move(in), *got);
  }

  void moe_block(std::int64_t layer) {
    const Tensor* x = find(prefix(layer) + "moe_block.input", c_.hidden, dtype_);
    const Tensor* logits = find(prefix(layer) + "router.output", c_.experts, DType::kF32);
    const Tensor* got = find(prefix(layer) + "moe_block.output", c_.hidden, dtype_);
    if (!have(layer, "moe_block", {x, logits, got})) return;
    TensorSet in = blocks_.inputs_of(layer, tokens());
    copy(x->view(), in.at("hidden_states"));
    copy(logits->view(), in.at("router_logits"));
    judge(layer, "moe_block", blocks_.case_of(layer, tokens()), std::move(in), *got);
  }

  void judge(std::int64_t layer, const char* name, const Case& line, TensorSet in, const Tensor& got) {
    TensorSet out(operator_of(line).outputs(line));
    copy(got.view(), out.at("out"));
    Record r = judge_outputs(line, in, out, engine_);
    keep(layer, name, std::move(r), std::move(in), std::move(out));
  }

  void layer(std::int64_t i, const Glm4MoeLayerWeights& w) {
    norm(i, "input_norm", "attention.input", w.input_norm);
    attention(i, w.attention);
    add(dump_.find(prefix(i) + "attention.output"));
    const bool dense = c_.is_dense(i);
    norm(i, "post_norm", dense ? "mlp.input" : "moe_block.input", w.post_norm);
    if (dense) {
      const Tensor* x = find(prefix(i) + "mlp.input", c_.hidden, dtype_);
      const Tensor* got = find(prefix(i) + "mlp.output", c_.hidden, dtype_);
      if (have(i, "mlp", {x, got})) compare(i, "mlp", *got, reference::gated_mlp(x->view(), w.dense));
      add(got);
      return;
    }
    linear(i, "router", "moe_block.input", "router.output", w.moe.router);
    moe_block(i);
    add(dump_.find(prefix(i) + "moe_block.output"));
  }

  const Glm4MoeCheckpoint& m_;
  const Glm4MoeConfig& c_;
  const TensorSet& dump_;
  std::string engine_;
  DType dtype_;
  std::vector<std::int32_t> ids_;
  ServedMoe blocks_;
  std::vector<double> residual_;  // [T * H], as long as every update is in the dump
  bool residual_known_ = true;
  Localization result_;
};

}  // namespace

bool leaves_bound(Verdict v) { return is_failure(v) && v != Verdict::kMistrusted; }

std::string JudgedOperator::where() const {
  return layer < 0 ? name : fmt::format("layer {} {}", layer, name);
}

const JudgedOperator* Localization::first_failure() const {
  for (const JudgedOperator& op : operators)
    if (leaves_bound(op.record.result.verdict)) return &op;
  return nullptr;
}

Localization localize(const Glm4MoeCheckpoint& checkpoint, const TensorSet& dump, const ServedMoeOptions& moe,
                      const std::string& engine) {
  return Localizer(checkpoint, dump, moe, engine).run();
}

std::vector<TensorDifference> differences(const TensorSet& a, const TensorSet& b) {
  std::vector<TensorDifference> all;
  for (const Tensor& t : a.tensors()) {
    const Tensor* other = b.find(t.name());
    if (other == nullptr || !(other->shape() == t.shape())) continue;
    double largest = 0;
    for (std::int64_t i = 0; i < t.shape().numel(); ++i) {
      const double d = std::fabs(t.view().at(i) - other->view().at(i));
      largest = std::isnan(d) ? INFINITY : std::max(largest, d);
    }
    all.push_back({t.name(), largest});
  }
  return all;
}

std::string summary(const Localization& l) {
  const JudgedOperator* first = l.first_failure();
  if (first == nullptr)
    return fmt::format("every operator is within its bounds ({} judged{})", l.operators.size(),
                       l.missing.empty() ? "" : fmt::format(", {} not in the dump", l.missing.size()));
  const Judgement& j = first->record.result;
  return fmt::format("{}: {}", first->where(), !j.cause.empty() ? j.cause : j.reason);
}

}  // namespace moecheck::harness
