// Relations of the expert operators: the reference keeps each, and each is broken by an implementation that deserves it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "tests/operators_support.h"

namespace moecheck::harness {
namespace {

TEST(ExpertRelations, TheReferenceKeepsThem) {
  const Honest honest;
  for (const Operator* op : expert_operators()) {
    std::set<std::string_view> applied;
    std::vector<Case> cases = op->cases(Suite::kQuick);
    const std::vector<Case> more = op->cases(Suite::kAdversarial);
    for (std::size_t i = 0; i < more.size(); i += 9)
      if (more[i].schema().find("tokens") < 0 || more[i].integer("tokens") <= 65) cases.push_back(more[i]);
    for (const Case& c : cases)
      for (const Relation& r : op->relations()) {
        const std::string fault = relation_fault(c, r, honest);
        if (fault.empty()) applied.insert(r.name);
        ASSERT_TRUE(fault.empty() || fault.starts_with("n/a: "))
            << r.name << ": " << fault << "\n  " << c.str();
      }
    for (const Relation& r : op->relations())
      EXPECT_TRUE(applied.contains(r.name)) << op->name() << " " << r.name << " was never asked";
  }
}

// ---- What breaks them

void scale_rows(TensorSet& o, std::int64_t from, std::int64_t to, double factor) {
  for (const char* name : {"out", "out_weights"}) {
    const View out = o.view(name);
    for (std::int64_t i = out ? from * out.shape[1] : 0; out && i < to * out.shape[1]; ++i)
      out.set(i, factor * ConstView(out).at(i));
  }
}

void first_row_doubled(const Case& c, const TensorSet&, TensorSet& o) {
  scale_rows(o, 0, std::min<std::int64_t>(1, c.integer("tokens")), 2);
}
void depends_on_batch_size(const Case& c, const TensorSet&, TensorSet& o) {
  scale_rows(o, 0, c.integer("tokens"), c.integer("tokens") % 2 == 0 ? 2 : 1);
}
void sees_padding(const Case&, const TensorSet& in, TensorSet& o) {
  for (const char* name : {"hidden_states", "routed_output"}) {
    const ConstView x = in.view(name);
    if (x && std::isnan(x.at(x.shape.numel() - 1))) scale_rows(o, 0, 1, 2);
  }
}
void adds_one(const Case&, const TensorSet&, TensorSet& o) {
  const View out = o.view("out");
  for (std::int64_t i = 0; i < out.shape.numel(); ++i) out.set(i, 1 + ConstView(out).at(i));
}
void expert_zero_is_special(const Case& c, const TensorSet& in, TensorSet& o) {
  for (std::int64_t t = 0; t < c.integer("tokens"); ++t)
    for (std::int64_t k = 0; k < c.integer("topk"); ++k)
      if (in.view("topk_ids").int_at(t * in.view("topk_ids").shape[1] + k) == 0) scale_rows(o, t, t + 1, 2);
}
void order_of_slots_matters(const Case& c, const TensorSet& in, TensorSet& o) {
  const ConstView ids = in.view("topk_ids");
  for (std::int64_t t = 0; t < c.integer("tokens"); ++t)
    if (ids.int_at(t * ids.shape[1]) > ids.int_at(t * ids.shape[1] + 1)) scale_rows(o, t, t + 1, 2);
}
void ignores_the_factor(const Case& c, const TensorSet& in, TensorSet& o) {
  o = reference_run(with_field(c, "rsf", "2.5"), in);
}
void dead_slots_leak(const Case& c, const TensorSet& in, TensorSet& o) {
  for (std::int64_t s = 0; s < in.view("topk_ids").shape.numel(); ++s)
    if (in.view("topk_ids").int_at(s) < 0) scale_rows(o, 0, c.integer("tokens"), kNaN);
}
void odd_experts_fail(const Case& c, const TensorSet&, TensorSet& o) {
  scale_rows(o, 0, c.integer("tokens"), c.integer("experts") % 2 == 1 ? 2 : 1);
}
void ranks_add_twice(const Case& c, const TensorSet&, TensorSet& o) {
  scale_rows(o, 0, c.integer("tokens"), c.integer("ep_size") > 1 ? 2 : 1);
}
void bias_in_the_weights(const Case& c, const TensorSet& in, TensorSet& o) {
  scale_rows(o, 0, c.integer("tokens"), 1 + in.view("e_score_correction_bias").at(0));
}
void logit_zero_is_special(const Case& c, const TensorSet& in, TensorSet& o) {
  scale_rows(o, 0, c.integer("tokens"),
             in.view("router_logits").at(0) > in.view("router_logits").at(c.integer("experts") - 1) ? 2 : 1);
}
void forgets_the_shared_module(const Case& c, const TensorSet&, TensorSet& o) {
  scale_rows(o, 0, c.integer("tokens"), c.flag("fused") ? 1 : 0.5);
}
void keeps_the_size_of_scores(const Case& c, const TensorSet& in, TensorSet& o) {
  scale_rows(o, 0, c.integer("tokens"), in.view("topk_weights").at(0));
}
void every_rank_counts(const Case& c, const TensorSet&, TensorSet& o) {
  const View ids = o.view("out_ids");
  for (std::int64_t t = 0; t < ids.shape[0]; ++t)
    ids.set_int(t * ids.shape[1] + c.integer("topk"), c.integer("experts"));
}
void repeats_chunk_zero(const Case& c, const TensorSet&, TensorSet& o) {
  Tensor& w = o.at("w13");
  std::memcpy(w.data() + w.bytes() / at(c.integer("n_shared")), w.data(),
              w.bytes() / at(c.integer("n_shared")));
}
void counts_by_order(const Case& c, const TensorSet& in, TensorSet& o) {
  const View n = o.view("num_tokens_post_padded");
  const ConstView ids = in.view("topk_ids");
  if (ids.int_at(0) > ids.int_at(ids.shape.numel() - 1))
    n.set_int(0, ConstView(n).int_at(0) + c.integer("block_size"));
}
void places_by_order(const Case&, const TensorSet& in, TensorSet& o) {
  const ConstView ids = in.view("topk_ids");
  if (ids.int_at(0) != ids.int_at(ids.shape.numel() - 1)) o.view("sorted_token_ids").set_int(0, 1);
}
void minus_one_is_expert_zero(const Case& c, const TensorSet& in, TensorSet& o) {
  TensorSet changed = in;
  const View ids = changed.view("topk_ids");
  for (std::int64_t s = 0; s < ids.shape.numel(); ++s)
    ids.set_int(s, std::max<std::int64_t>(0, ConstView(ids).int_at(s)));
  o = reference_run(c, changed);
}
void blocks_of_one_are_padded(const Case& c, const TensorSet&, TensorSet& o) {
  const View n = o.view("num_tokens_post_padded");
  if (c.integer("block_size") == 1) n.set_int(0, ConstView(n).int_at(0) + 1);
}

const Culprit kCulprits[] = {
    {"routed_scaling", "token_permutation", first_row_doubled},
    {"routed_scaling", "batch_split", first_row_doubled},
    {"routed_scaling", "duplicate_token", depends_on_batch_size},
    {"routed_scaling", "padding_independence", sees_padding},
    {"routed_scaling", "power_of_two", adds_one},
    {"routed_scaling", "factor_applied_once", ignores_the_factor},
    {"routed_scaling policy=aiter_fused", "factor_applied_once",
     [](const Case& c, const TensorSet&, TensorSet& o) { scale_rows(o, 0, 4, c.real("rsf")); }},
    {"routed_scaling", "dead_slot", dead_slots_leak},
    {"routed_scaling", "slot_permutation", order_of_slots_matters},
    {"shared_experts", "token_permutation", first_row_doubled},
    {"shared_experts", "batch_split", first_row_doubled},
    {"shared_experts policy=aiter_append", "duplicate_token", depends_on_batch_size},
    {"shared_experts", "score_size", keeps_the_size_of_scores},
    {"shared_experts policy=vllm_rocm ep_size=2", "ep_partition", every_rank_counts},
    {"shared_experts policy=split n_shared=2", "chunk_permutation", repeats_chunk_zero},
    {"moe_align tokens=9", "counts_keep", counts_by_order},
    {"moe_align tokens=9 seed=5", "token_permutation", places_by_order},
    {"moe_align", "unrouted_rows", minus_one_is_expert_zero},
    {"moe_align", "block_of_one", blocks_of_one_are_padded},
    {"moe_align policy=permute_deepgemm", "padding_rows_kept",
     [](const Case&, const TensorSet&, TensorSet& o) { o.at("permuted").fill(0); }},
    {"experts", "token_permutation", first_row_doubled},
    {"experts policy=triton", "batch_split", first_row_doubled},
    {"experts", "duplicate_token", depends_on_batch_size},
    {"experts policy=vllm_fp8", "padding_independence", sees_padding},
    {"experts policy=triton tokens=9", "expert_permutation", expert_zero_is_special},
    {"experts tokens=9", "expert_permutation", expert_zero_is_special},
    {"experts", "dead_expert", odd_experts_fail},
    {"experts", "power_of_two_weights", adds_one},
    {"experts", "shards_sum", ranks_add_twice},
    {"experts tokens=9", "slot_permutation", order_of_slots_matters},
    {"moe_block", "token_permutation", first_row_doubled},
    {"moe_block", "batch_split", first_row_doubled},
    {"moe_block", "duplicate_token", depends_on_batch_size},
    {"moe_block", "padding_independence", sees_padding},
    {"moe_block", "expert_permutation", logit_zero_is_special},
    {"moe_block policy=vllm_cuda", "factor_applied_once", ignores_the_factor},
    {"moe_block", "bias_shift", bias_in_the_weights},
    {"moe_block policy=sglang_hip_aiter", "fused_equals_unfused", forgets_the_shared_module},
    {"moe_block policy=sglang_cuda_fused n_shared=2 layout=interleaved", "fused_equals_unfused",
     forgets_the_shared_module},
    {"moe_block policy=vllm_cuda", "shards_sum", ranks_add_twice},
};

TEST(ExpertRelations, EachIsBrokenByAWrongImplementation) {
  expect_each_relation_broken(kCulprits, expert_operators());
}

}  // namespace
}  // namespace moecheck::harness
