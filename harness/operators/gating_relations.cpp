// Metamorphic relations of gating.
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "harness/judge.h"
#include "harness/operators/gating.h"

namespace moecheck::harness {
namespace {

using reference::GatingOptions;
using reference::Scoring;

const char* const kOutputs[] = {"topk_weights", "topk_ids"};

std::int64_t tokens_of(const Trial& trial) { return trial.c.integer("tokens"); }

// Rows of the inputs that have a row per token, taken from other rows.
template <class RowOf>
TensorSet with_rows(const Trial& trial, std::int64_t tokens, RowOf row_of) {
  TensorSet changed;
  for (const Tensor& t : trial.inputs.tensors()) {
    if (t.name() != "router_logits") {
      changed.add(t);
      continue;
    }
    Tensor rows(t.name(), t.dtype(), reference::Shape(tokens, t.shape()[1]));
    const std::size_t bytes = tokens == 0 ? 0 : rows.bytes() / static_cast<std::size_t>(tokens);
    for (std::int64_t r = 0; r < tokens; ++r)
      std::memcpy(rows.data() + static_cast<std::size_t>(r) * bytes,
                  t.data() + static_cast<std::size_t>(row_of(r)) * bytes, bytes);
    changed.add(std::move(rows));
  }
  return changed;
}

Case with_tokens(const Case& c, std::int64_t tokens, std::int64_t padded) {
  Case changed = c;
  changed.set("tokens", tokens);
  changed.set("padded", padded);
  return changed;
}

void token_permutation(const Trial& trial) {
  const std::int64_t n = tokens_of(trial) - trial.c.integer("padded");
  if (n < 2) throw NotApplicable("fewer than two tokens");
  const auto reversed = [&](std::int64_t r) { return r < n ? n - 1 - r : r; };
  const TensorSet got = trial.run(trial.c, with_rows(trial, tokens_of(trial), reversed));
  for (const char* name : kOutputs)
    for (std::int64_t r = 0; r < n; ++r)
      Trial::require_rows_equal(got, r, r + 1, trial.outputs, reversed(r), name);
}

void batch_split(const Trial& trial) {
  const std::int64_t n = tokens_of(trial);
  if (n < 2 || trial.c.integer("padded") > 0) throw NotApplicable("fewer than two tokens, or padding");
  for (const std::int64_t at : {std::int64_t{1}, n / 2 + 1}) {
    if (at >= n) continue;
    const Case first = with_tokens(trial.c, at, 0), second = with_tokens(trial.c, n - at, 0);
    const TensorSet a = trial.run(first, with_rows(trial, at, [](std::int64_t r) { return r; }));
    const TensorSet b = trial.run(second, with_rows(trial, n - at, [at](std::int64_t r) { return r + at; }));
    for (const char* name : kOutputs) {
      Trial::require_rows_equal(a, 0, at, trial.outputs, 0, name);
      Trial::require_rows_equal(b, 0, n - at, trial.outputs, at, name);
    }
  }
}

// Larger batches take other code paths upstream (M > 512, M > 212 * CUs): the rows must not notice.
void batch_growth(const Trial& trial) {
  const std::int64_t n = tokens_of(trial), columns = trial.inputs.at("router_logits").shape()[1];
  if (n == 0 || trial.c.integer("padded") > 0) throw NotApplicable("no tokens, or padding");
  if (n * columns > 4096) throw NotApplicable("the case is large enough already");
  const std::int64_t grown = 520;
  const TensorSet got = trial.run(with_tokens(trial.c, grown, 0),
                                  with_rows(trial, grown, [n](std::int64_t r) { return r % n; }));
  for (const char* name : kOutputs)
    for (std::int64_t r = 0; r < grown; ++r)
      Trial::require_rows_equal(got, r, r + 1, trial.outputs, r % n, name);
}

void duplicate_token(const Trial& trial) {
  const std::int64_t n = tokens_of(trial);
  if (n < 2 || trial.c.integer("padded") > 0) throw NotApplicable("fewer than two tokens, or padding");
  const TensorSet got = trial.run(trial.c, with_rows(trial, n, [](std::int64_t) { return std::int64_t{0}; }));
  for (const char* name : kOutputs)
    for (std::int64_t r = 0; r < n; ++r) Trial::require_rows_equal(got, r, r + 1, trial.outputs, 0, name);
}

void padding_independence(const Trial& trial) {
  const std::int64_t n = tokens_of(trial), padded = trial.c.integer("padded");
  if (padded == 0 || padded == n) throw NotApplicable("no padded rows beside real ones");
  TensorSet changed = trial.inputs;
  const reference::View logits = changed.view("router_logits");
  for (std::int64_t i = (n - padded) * logits.shape[1]; i < logits.shape.numel(); ++i)
    logits.set(i, std::numeric_limits<double>::quiet_NaN());
  const TensorSet got = trial.run(trial.c, changed);
  for (const char* name : kOutputs) Trial::require_rows_equal(got, 0, n - padded, trial.outputs, 0, name);
}

// Swaps the first and the last expert of every group, and judges the result on those inputs.
void expert_permutation(const Trial& trial) {
  const GatingOptions o = gating_options(trial.c);
  const std::int64_t per_group = o.experts / o.groups;
  if (per_group < 2) throw NotApplicable("one expert per group");
  const auto from = [&](std::int64_t e) {
    if (e >= o.experts) return e;
    const std::int64_t in = e % per_group;
    return in == 0 ? e + per_group - 1 : in == per_group - 1 ? e - per_group + 1 : e;
  };
  TensorSet changed = trial.inputs;
  const reference::View logits = changed.view("router_logits");
  const reference::ConstView was = trial.inputs.view("router_logits");
  for (std::int64_t t = 0; t < was.shape[0]; ++t)
    for (std::int64_t e = 0; e < was.shape[1]; ++e) logits.set(t * was.shape[1] + e, was.at(t, from(e)));
  if (const reference::View bias = changed.view("e_score_correction_bias"))
    for (std::int64_t e = 0; e < o.experts; ++e)
      bias.set(e, trial.inputs.view("e_score_correction_bias").at(from(e)));
  const TensorSet got = trial.run(trial.c, changed);
  Judgement j;
  trial.op.judge(trial.c, changed, *trial.op.reference(trial.c, changed), got, j);
  if (j.failed > 0) throw Broken("with experts exchanged inside their groups: " + j.reason);
}

// An expert that nobody selects may score lower still.
void dead_expert(const Trial& trial) {
  const GatingOptions o = gating_options(trial.c);
  if (o.groups != 1 || o.scoring == Scoring::kSoftmax || trial.c.flag("remap"))
    throw NotApplicable("group scores, softmax sums and remapped ids feel every expert");
  TensorSet changed = trial.inputs;
  const reference::View logits = changed.view("router_logits");
  const reference::ConstView ids = trial.outputs.view("topk_ids");
  for (std::int64_t t = 0; t < logits.shape[0]; ++t) {
    for (std::int64_t e = 0; e < o.experts; ++e) {
      bool selected = false;
      for (std::int64_t k = 0; k < o.topk; ++k) selected = selected || ids.int_at(t * o.slots() + k) == e;
      const std::int64_t i = t * logits.shape[1] + e;
      const double l = reference::ConstView(logits).at(i);
      // Only well below: near the cut a lower logit may still tie.
      if (!selected && std::isfinite(l) && std::fabs(l) < 1e4) logits.set(i, l - 8 - std::fabs(l));
    }
  }
  const TensorSet got = trial.run(trial.c, changed);
  for (const char* name : kOutputs)
    Trial::require_rows_equal(got, 0, logits.shape[0], trial.outputs, 0, name);
}

// Twice the factor: routed weights double exactly where the policy scales them, and stay where it does not; nothing squares.
void scale_applied_once(const Trial& trial) {
  const GatingOptions o = gating_options(trial.c);
  if (o.routed_scaling_factor > 256) throw NotApplicable("rsf is too large to double");
  Case changed = trial.c;
  changed.set("rsf", fmt::format("{}", 2 * o.routed_scaling_factor));
  const bool narrow = o.policy.precision == reference::Precision::kAll && o.logits_dtype != DType::kF32;
  if (narrow && (o.routed_scaling_factor == 1 || o.routed_scaling_factor == 0.5))
    throw NotApplicable("a factor of 1 is not multiplied, and nothing rounds behind it");
  const TensorSet got = trial.run(changed, trial.inputs);
  // A factor of 1 says nothing of the policy.
  const bool scales =
      reference::Gating(o).scales_weights() || reference::Gating(gating_options(changed)).scales_weights();
  const double factor = scales ? 2 : 1;
  // Doubling is exact but for subnormals of what the weights are rounded to.
  const double normal =
      4 *
      reference::min_normal(o.policy.precision == reference::Precision::kAll ? o.logits_dtype : DType::kF32);
  const reference::ConstView a = trial.outputs.view("topk_weights"), b = got.view("topk_weights");
  for (std::int64_t t = 0; t < a.shape[0]; ++t) {
    for (std::int64_t k = 0; k < o.topk; ++k) {
      const double before = a.at(t, k), after = b.at(t, k);
      if (after == factor * before || std::isnan(before) || std::fabs(before) < normal) continue;
      throw Broken(
          fmt::format("topk_weights[{}, {}] went from {} to {} when rsf doubled: it should be {} times", t, k,
                      before, after, factor));
    }
  }
}

constexpr std::array kRelations = {
    Relation{"token_permutation", "permuting tokens permutes rows and changes nothing else",
             token_permutation},
    Relation{"batch_split", "a row is the same alone, in half the batch and in all of it", batch_split},
    Relation{"batch_growth", "a row is the same in a batch of 520", batch_growth},
    Relation{"duplicate_token", "equal rows give equal rows", duplicate_token},
    Relation{"padding_independence", "padded rows may hold NaN", padding_independence},
    Relation{"expert_permutation", "exchanging experts inside their groups exchanges their ids",
             expert_permutation},
    Relation{"dead_expert", "lowering logits of experts nobody selects changes nothing", dead_expert},
    Relation{"scale_applied_once",
             "twice the routed_scaling_factor gives exactly twice the weights, or the same",
             scale_applied_once},
};

}  // namespace

std::span<const Relation> gating_relations() { return kRelations; }

}  // namespace moecheck::harness
