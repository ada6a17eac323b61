// Relations and suites of moe_align.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "harness/operators/moe_align.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

// Tokens in reverse order.
TensorSet reversed(const Trial& trial) {
  std::vector<std::int64_t> rows(at(trial.c.integer("tokens")));
  std::iota(rows.rbegin(), rows.rend(), 0);
  return gather_rows(trial.inputs, rows);
}

// Experts, counts and offsets depend on how often each expert is named, not on who names it.
void counts_keep(const Trial& trial) {
  if (trial.c.integer("local_tokens") >= 0) throw NotApplicable("local_tokens says which rows count");
  const Case c = with_tokens(trial.c, trial.c.integer("tokens"));
  const TensorSet got = trial.run(c, reversed(trial));
  for (const std::string_view name : {"expert_ids", "num_tokens_post_padded", "sorted_expert_ids",
                                      "num_valid_ids", "expert_first_token_offset"}) {
    if (got.find(name) == nullptr) continue;
    const Tensor &a = got.at(name), &b = trial.outputs.at(name);
    for (std::int64_t i = 0; i < a.shape().numel(); ++i)
      if (a.view().int_at(i) != b.view().int_at(i))
        throw Broken(fmt::format("{}[{}] is {} instead of {} with the tokens in reverse order", name, i,
                                 a.view().int_at(i), b.view().int_at(i)));
  }
}

void token_permutation(const Trial& trial) {
  require_judged(trial, with_tokens(trial.c, trial.c.integer("tokens")), reversed(trial),
                 "with the tokens in reverse order");
  if (trial.inputs.find("hidden_states") == nullptr || trial.c.integer("tokens") == 0) return;
  const std::int64_t tokens = trial.c.integer("tokens");
  const TensorSet got = trial.run(with_tokens(trial.c, tokens), reversed(trial));
  for (std::int64_t t = 0; t < tokens; ++t)
    Trial::require_rows_equal(got, t, t + 1, trial.outputs, tokens - 1 - t, "out");
}

// Rows of -1 behind the batch take no block (sglang gives them blocks of expert -1).
void unrouted_rows(const Trial& trial) {
  const std::int64_t tokens = trial.c.integer("tokens"), topk = trial.c.integer("topk");
  if (tokens == 0 || trial.c.integer("local_tokens") >= 0)
    throw NotApplicable("it needs tokens that all count");
  std::vector<std::int64_t> rows(at(tokens + 2), 0);
  std::iota(rows.begin(), rows.end() - 2, 0);
  TensorSet inputs = gather_rows(trial.inputs, rows);
  for (std::int64_t s = tokens * topk; s < (tokens + 2) * topk; ++s) inputs.view("topk_ids").set_int(s, -1);
  require_judged(trial, with_tokens(trial.c, tokens + 2), inputs, "with two rows of ids -1 behind the batch");
}

// With blocks of one row there is no padding.
void block_of_one(const Trial& trial) {
  if (trial.c.integer("block_size") == 1) throw NotApplicable("block_size is 1 already");
  Case c = with_field(trial.c, "block_size", "1");
  require_judged(trial, c, trial.inputs, "with block_size=1");
}

// permute writes the rows of slots and no others: a grouped GEMM's buffer may hold something there.
void padding_rows_kept(const Trial& trial) {
  if (!is_convention(trial.c, "permute")) throw NotApplicable("it needs convention=permute");
  constexpr std::uint8_t kBefore = 0x11;
  TensorSet out(trial.op.outputs(trial.c));
  out.fill(kBefore);
  trial.implementation.run(trial.c, trial.inputs, out, trial.options);
  const Tensor& permuted = out.at("permuted");
  const std::int64_t rows = permuted.shape()[0];
  const std::size_t bytes = rows == 0 ? 0 : permuted.bytes() / at(rows);
  const auto offsets = trial.outputs.at("expert_first_token_offset").view();
  const std::int64_t last = offsets.int_at(offsets.shape.numel() - 1);
  for (std::int64_t r = 0; r < rows; ++r) {
    if (r < last && trial.outputs.at("slot_of_row").view().int_at(r) >= 0) continue;
    const std::byte* row = permuted.data() + at(r) * bytes;
    if (std::any_of(row, row + bytes, [](std::byte b) { return b != std::byte{kBefore}; }))
      throw Broken(fmt::format("row {} of permuted belongs to no slot and was written", r));
  }
}

}  // namespace

std::span<const Relation> moe_align_relations() {
  static const std::array<Relation, 5> all = {
      Relation{"counts_keep", "the order of tokens changes no count, no block's expert and no offset",
               counts_keep},
      Relation{"token_permutation", "tokens in another order are aligned as well", token_permutation},
      Relation{"unrouted_rows", "rows of ids -1 behind the batch disturb nobody", unrouted_rows},
      Relation{"padding_rows_kept", "rows of permuted that belong to no slot keep what they hold",
               padding_rows_kept},
      Relation{"block_of_one", "blocks of one row hold the slots and nothing else", block_of_one},
  };
  return all;
}

std::vector<Case> moe_align_cases(Suite suite) {
  const Operator& op = moe_align_operator();
  std::vector<Case> cases;
  std::vector<std::string> all = policy_axis(op.schema());
  for (const char* more : {"policy=vllm ep_size=4 ep_rank=1", "policy=vllm ep_size=2 ignore_invalid=1",
                           "policy=aiter ep_size=4 ep_rank=3", "policy=permute ep_size=2 ep_rank=1"})
    all.emplace_back(more);
  const std::vector<std::string> kinds = {"data=realistic", "data=hot_expert", "data=empty_experts",
                                          "data=minus_one", "data=one_expert", "data=out_of_range"};
  switch (suite) {
    case Suite::kQuick:
      add_product(cases, op,
                  {all, {"data=realistic", "data=minus_one"}, {"tokens=5", "tokens=40 topk=4 ids=i64"}});
      // More slots than one block of a GPU sorts, and rows that end behind a whole wave's width.
      add_product(cases, op,
                  {{"policy=sglang tokens=74 topk=60 experts=70 data=minus_one",
                    "policy=permute tokens=7 hidden=2600 dtype=f16"}});
      break;
    case Suite::kModels:
      add_product(cases, op,
                  {model_axis(), all, {"tokens=1 hidden=16", "tokens=33 hidden=16", "tokens=600 hidden=8"}});
      break;
    case Suite::kAdversarial:
      add_product(cases, op, {all, kinds, {"tokens=7 topk=3", "tokens=65 experts=64 topk=8"}});
      // vLLM's small path ends at 1024 slots and 64 experts; blocks fill up at multiples of their size.
      add_product(cases, op,
                  {all,
                   {"tokens=0", "tokens=1", "tokens=15", "tokens=16", "tokens=17", "tokens=127", "tokens=128",
                    "tokens=129", "tokens=511", "tokens=512", "tokens=513"},
                   {"experts=64", "experts=160 topk=8"}});
      add_product(cases, op,
                  {all,
                   {"experts=8 topk=8", "experts=1 topk=1", "experts=68 topk=1", "experts=1024 topk=8",
                    "experts=64 topk=6", "experts=256 topk=10"},
                   {"tokens=1", "tokens=37"}});
      add_product(cases, op,
                  {{"policy=vllm", "policy=sglang", "policy=aiter", "policy=permute_deepgemm"},
                   {"block_size=1", "block_size=7", "block_size=32", "block_size=64", "block_size=256"},
                   {"tokens=50 topk=4"}});
      add_product(cases, op,
                  {{"policy=aiter"}, {"local_tokens=0", "local_tokens=5", "local_tokens=9"}, {"tokens=9"}});
      add_product(cases, op, {all, {"edit=minus_one:0:0 edit=minus_one:0:1", "edit=minus_one:3:1"}});
      break;
    case Suite::kFull:
      add_random(cases, op, 500,
                 {all,
                  kinds,
                  {"tokens=1", "tokens=3", "tokens=20", "tokens=100", "tokens=700"},
                  {"topk=1", "topk=2", "topk=6", "topk=8"},
                  {"experts=8", "experts=64", "experts=160", "experts=384"},
                  {"ids=i32", "ids=i64"}});
      break;
  }
  return each_once(std::move(cases));
}

}  // namespace moecheck::harness
