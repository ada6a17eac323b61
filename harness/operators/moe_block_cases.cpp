// Suites of moe_block.
#include "harness/operators/moe_block.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

const std::vector<std::string> kSome = {
    "policy=any",       "policy=sglang_cuda",      "policy=sglang_cuda_fused",
    "policy=vllm_cuda", "policy=sglang_hip_aiter", "policy=vllm_aiter_fused"};

void quick(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> all = policy_axis(op.schema());
  add_product(cases, op,
              {all,
               {"tokens=3 hidden=48 intermediate=24",
                "tokens=3 hidden=40 intermediate=16 topk=4 groups=4 topk_group=2"},
               {"data=realistic", "data=integers rsf=2"}});
  add_product(cases, op, {kSome, {"dtype=f16", "dtype=f32 ids=i64"}, {"tokens=2"}});
  add_product(cases, op, {kSome, {"n_shared=0", "n_shared=2"}, {"tokens=2"}});
  add_product(cases, op, {kSome, {"ep_size=2 ep_rank=0", "ep_size=4 ep_rank=3"}, {"tokens=3"}});
  add_product(cases, op, {{"policy=deepseek_v4"}, {"limit=1", "limit=1 hidden=37 intermediate=29"}});
  add_product(cases, op, {all, {"data=padding tokens=5"}});
  // A shared expert with a gate of its own, beside little else: what its roundings do is seen.
  add_product(cases, op,
              {{"policy=vllm_cuda", "policy=hf_qwen3_next"},
               {"round_shared_gate=round", "round_shared_gate=none"},
               {"shared_gate=1 rsf=0.01 tokens=17"}});
}

void models_suite(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> all = policy_axis(op.schema()), models = model_axis();
  add_product(cases, op,
              {models,
               all,
               {"hidden=128 intermediate=64 tokens=3",
                "hidden=64 intermediate=128 tokens=3 data=integers rsf=2 topk=4"}});
  add_product(cases, op, {models, kSome, {"hidden=64 intermediate=32 tokens=17"}});
  // True hidden size, one tensor-parallel rank's intermediate size, one expert-parallel rank's experts.
  add_product(cases, op,
              {models,
               {"policy=any", "policy=vllm_cuda", "policy=sglang_hip_aiter", "policy=vllm_fp8"},
               {"intermediate=128 tokens=2 ep_size=16 ep_rank=0"}});
}

void adversarial(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> all = policy_axis(op.schema());
  add_product(
      cases, op,
      {all,
       {"data=hot_expert", "data=nan_in_unrouted", "data=duplicate_tokens", "data=zero_rows", "data=padding",
        "data=large", "data=large dtype=f16", "data=subnormal", "data=subnormal dtype=f16"},
       {"tokens=6 topk=4 hidden=40 intermediate=24"}});
  add_product(cases, op,
              {kSome,
               {"tokens=0", "tokens=1", "tokens=2", "tokens=16", "tokens=17", "tokens=32", "tokens=33"},
               {"hidden=24 intermediate=16"}});
  add_product(cases, op,
              {{"policy=any", "policy=vllm_fp16"},
               {"tokens=256", "tokens=257", "tokens=513"},
               {"hidden=16 intermediate=8"}});
  add_product(cases, op,
              {kSome,
               {"hidden=7", "hidden=65", "hidden=130"},
               {"intermediate=1", "intermediate=33", "intermediate=129"},
               {"tokens=2"}});
  add_product(cases, op,
              {kSome,
               {"topk=1", "topk=8", "topk=16", "topk=1 experts=1", "topk=10 experts=64",
                "topk=6 experts=32 groups=8 topk_group=3", "topk=2 experts=64 groups=8 topk_group=4"},
               {"tokens=3"}});
  add_product(
      cases, op,
      {kSome, {"rsf=1", "rsf=1.8", "rsf=2.827", "rsf=16"}, {"n_shared=1", "n_shared=3"}, {"tokens=2"}});
  add_product(cases, op, {kSome, {"edit=zero:1", "edit=nan:1"}, {"tokens=3"}});
  add_product(cases, op,
              {{"policy=any", "policy=vllm_cuda"},
               {"layout=up_gate", "layout=interleaved", "clamp=before_silu limit=2", "activation=swiglu_oai",
                "router_weight=input", "logits=bf16 bias=bf16", "bias=bf16"},
               {"tokens=3"}});
  add_product(cases, op,
              {{"policy=deepseek_v4"}, {"limit=0", "limit=0.5", "limit=1"}, {"dtype=bf16", "dtype=f32"}});
}

void full(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> all = policy_axis(op.schema());
  add_random(cases, op, 400,
             {all,
              {"tokens=1", "tokens=2", "tokens=7"},
              {"experts=16", "experts=64", "experts=64 groups=4 topk_group=2", "experts=160"},
              {"topk=1", "topk=2", "topk=4", "topk=8"},
              {"n_shared=0", "n_shared=1", "n_shared=1", "n_shared=2"},
              {"hidden=16", "hidden=72", "hidden=200"},
              {"intermediate=8", "intermediate=50", "intermediate=128"},
              {"dtype=bf16", "dtype=f16", "dtype=f32"},
              {"ep_size=1", "ep_size=1", "ep_size=4 ep_rank=1"},
              {"data=realistic", "data=realistic", "data=hot_expert", "data=nan_in_unrouted",
               "data=zero_rows", "data=padding"}});
  add_random(cases, op, 150,
             {all,
              {"tokens=1", "tokens=4"},
              {"experts=16", "experts=64 groups=4 topk_group=2", "experts=128"},
              {"topk=1", "topk=2", "topk=4", "topk=8"},
              {"n_shared=0", "n_shared=1", "n_shared=2"},
              {"hidden=16", "hidden=129", "hidden=256"},
              {"intermediate=8", "intermediate=60", "intermediate=128"},
              {"dtype=bf16", "dtype=f16"},
              {"data=integers rsf=2", "data=integers rsf=4"}});
}

}  // namespace

std::vector<Case> moe_block_cases(Suite suite) {
  return cases_of(moe_block_operator(), suite, {quick, models_suite, adversarial, full});
}

}  // namespace moecheck::harness
