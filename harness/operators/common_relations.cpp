// Relations that every operator on rows of tokens keeps.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "harness/operators/common.h"

namespace moecheck::harness {
namespace {

std::int64_t tokens_of(const Trial& trial) { return trial.c.integer("tokens"); }

void need_tokens(const Trial& trial, std::int64_t least) {
  if (tokens_of(trial) < least)
    throw NotApplicable(fmt::format("it needs tokens>={}: there are {}", least, tokens_of(trial)));
  if (trial.c.operator_name() == "moe_block" && data_is(trial.c, "padding"))
    throw NotApplicable("data=padding: which rows are padding follows from their number");
  // vLLM on ROCm deals tokens to ranks by their index: there a row's result depends on where it stands.
  const int insertion = trial.c.schema().find("insertion");
  if (insertion >= 0 && trial.c.choice("insertion") == "vllm_rocm" && trial.c.integer("ep_size") > 1)
    throw NotApplicable("insertion=vllm_rocm with ep_size>1 deals tokens to ranks by their index");
}

// Row i of every token-major output of `got` must be row rows[i] of the trial's own outputs.
void require_gathered(const Trial& trial, const TensorSet& got, std::span<const std::int64_t> rows) {
  for (const Tensor& t : got.tensors()) {
    if (!is_token_major(t.name())) continue;
    for (std::size_t i = 0; i < rows.size(); ++i)
      Trial::require_rows_equal(got, static_cast<std::int64_t>(i), static_cast<std::int64_t>(i) + 1,
                                trial.outputs, rows[i], t.name());
  }
}

void check_rows(const Trial& trial, std::span<const std::int64_t> rows) {
  const Case changed = with_tokens(trial.c, static_cast<std::int64_t>(rows.size()));
  require_gathered(trial, trial.run(changed, gather_rows(trial.inputs, rows)), rows);
}

void token_permutation(const Trial& trial) {
  need_tokens(trial, 2);
  std::vector<std::int64_t> rows(at(tokens_of(trial)));
  std::iota(rows.begin(), rows.end(), 0);
  std::reverse(rows.begin(), rows.end());
  std::rotate(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(rows.size() / 3), rows.end());
  check_rows(trial, rows);
}

void batch_split(const Trial& trial) {
  need_tokens(trial, 2);
  std::vector<std::int64_t> rows(at(tokens_of(trial)));
  std::iota(rows.begin(), rows.end(), 0);
  const std::span<const std::int64_t> all(rows);
  const std::size_t cut = (rows.size() + 2) / 3;
  check_rows(trial, all.first(cut));
  check_rows(trial, all.subspan(cut));
}

void duplicate_token(const Trial& trial) {
  need_tokens(trial, 1);
  std::vector<std::int64_t> rows(at(tokens_of(trial)));
  std::iota(rows.begin(), rows.end(), 0);
  rows.push_back(tokens_of(trial) / 2);
  check_rows(trial, rows);
}

// Rows of NaN that are routed nowhere, or anywhere: the rows before them must not notice.
void padding_independence(const Trial& trial) {
  need_tokens(trial, 1);
  std::vector<std::int64_t> rows(at(tokens_of(trial)));
  std::iota(rows.begin(), rows.end(), 0);
  const std::size_t kept = rows.size();
  rows.resize(kept + 3, 0);
  TensorSet inputs = gather_rows(trial.inputs, rows);
  for (Tensor& t : inputs.tensors()) {
    if (!is_token_major(t.name())) continue;
    const std::int64_t columns = t.shape().numel() / t.shape()[0];
    for (std::int64_t i = static_cast<std::int64_t>(kept) * columns; i < t.shape().numel(); ++i) {
      if (!reference::is_float(t.dtype())) t.view().set_int(i, -1);
      // A NaN among the logits leaves the selection open, and its ids in range: NaN stays out of them.
      else if (t.name() != "router_logits")
        t.view().set(i, kNaN);
    }
  }
  const TensorSet got = trial.run(with_tokens(trial.c, static_cast<std::int64_t>(rows.size())), inputs);
  require_gathered(trial, got, std::span<const std::int64_t>(rows).first(kept));
}

}  // namespace

bool is_token_major(std::string_view tensor) {
  constexpr std::array<std::string_view, 10> kNames = {
      "hidden_states", "router_logits", "topk_weights", "topk_ids", "routed_output",
      "shared_output", "gate_logits",   "out_weights",  "out_ids",  "out"};
  return std::find(kNames.begin(), kNames.end(), tensor) != kNames.end();
}

TensorSet gather_rows(const TensorSet& inputs, std::span<const std::int64_t> rows) {
  TensorSet gathered;
  for (const Tensor& t : inputs.tensors()) {
    if (!is_token_major(t.name())) {
      gathered.add(t);
      continue;
    }
    Shape shape = t.shape();
    const std::size_t bytes = shape[0] == 0 ? 0 : t.bytes() / at(shape[0]);
    shape.dim[0] = static_cast<std::int64_t>(rows.size());
    Tensor& copy = gathered.add(Tensor(t.name(), t.dtype(), shape));
    for (std::size_t i = 0; i < rows.size(); ++i)
      std::memcpy(copy.data() + i * bytes, t.data() + at(rows[i]) * bytes, bytes);
  }
  return gathered;
}

std::optional<std::string> judged_wrong(const Operator& op, const Case& c, const TensorSet& inputs,
                                        const TensorSet& outputs) {
  Judgement j;
  op.judge(c, inputs, *op.reference(c, inputs), outputs, j);
  if (j.failed == 0) return std::nullopt;
  std::string text = j.reason;
  if (j.worst)
    text += fmt::format(": {}[{}] = {} instead of {}", j.worst->output, fmt::join(j.worst->index, ", "),
                        j.worst->got, j.worst->expected);
  return text;
}

void require_judged(const Trial& trial, const Case& changed, const TensorSet& inputs, std::string_view what) {
  if (const auto wrong = judged_wrong(trial.op, changed, inputs, trial.run(changed, inputs)))
    throw Broken(fmt::format("{}: {}", what, *wrong));
}

const Relation kTokenPermutation = {
    "token_permutation", "permuting tokens permutes rows and changes nothing else", token_permutation};
const Relation kBatchSplit = {
    "batch_split", "a row does not depend on the rest of its batch: the parts of a batch give its rows",
    batch_split};
const Relation kDuplicateToken = {"duplicate_token", "a token that comes again gives the same bytes again",
                                  duplicate_token};
const Relation kPaddingIndependence = {"padding_independence",
                                       "rows of padding behind the batch change nothing before them",
                                       padding_independence};

}  // namespace moecheck::harness
