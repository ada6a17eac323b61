// Suites of experts.
#include "harness/models.h"
#include "harness/operators/experts.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

const std::vector<std::string> kSome = {"policy=any", "policy=triton", "policy=fused_f32", "policy=vllm_fp8"};

void quick(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> all = policy_axis(op.schema());
  add_product(cases, op,
              {all,
               {"data=realistic hidden=64 intermediate=32", "data=integers rsf=2 hidden=48 intermediate=40"},
               {"tokens=3"}});
  add_product(cases, op,
              {{"policy=vllm_fp8", "policy=sglang_fp8", "policy=aiter_fnuz", "policy=fp8_weight_only"},
               {"data=realistic", "data=integers rsf=2"},
               {"hidden=160 intermediate=136 tokens=2"}});
  add_product(cases, op,
              {kSome,
               {"dtype=f16", "dtype=f32 ids=i64"},
               {"data=realistic", "data=integers rsf=2"},
               {"tokens=3 topk=3"}});
  add_product(cases, op, {kSome, {"ep_size=2 ep_rank=0", "ep_size=4 ep_rank=3"}, {"tokens=5"}});
  // A limit that real gates reach; widths that no vector divides; what is nobody's, and nothing.
  add_product(cases, op,
              {{"policy=deepseek_v4", "policy=sglang_clamp", "policy=gpt_oss"}, {"limit=1"}, {"tokens=3"}});
  add_product(cases, op, {{"policy=sglang_fp8 data=zero_rows"}, {"tokens=3"}});
  add_product(
      cases, op,
      {kSome, {"hidden=37 intermediate=29", "data=minus_one", "data=zero_rows"}, {"tokens=3 topk=3"}});
  // More experts than a wave has lanes, more slots than a tile has rows, more numbers than lanes sum at once.
  add_product(cases, op,
              {{"policy=triton tokens=33 topk=4 experts=70 hidden=40 intermediate=3",
                "policy=naive_batched tokens=18 experts=2 hidden=16 intermediate=8",
                "policy=any dtype=f32 ids=i64 tokens=2 hidden=136 intermediate=4 data=minus_one"}});
}

void models_suite(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> all = policy_axis(op.schema());
  const std::vector<std::string> models = model_axis();
  // Routing of the model, small GEMMs.
  add_product(cases, op,
              {models,
               all,
               {"hidden=256 intermediate=64 ep_size=8 ep_rank=3"},
               {"tokens=1", "tokens=6 data=integers rsf=2"}});
  add_product(
      cases, op,
      {models, kSome, {"hidden=128 intermediate=64 tokens=33"}, {"data=realistic", "data=integers rsf=2"}});
  // True hidden size, intermediate of one tensor-parallel rank, experts of one expert-parallel rank.
  add_product(cases, op,
              {models,
               kSome,
               {"intermediate=192 ep_size=16 ep_rank=5"},
               {"tokens=2", "tokens=2 data=integers rsf=2"}});
}

void adversarial(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> all = policy_axis(op.schema());
  add_product(cases, op,
              {all,
               {"data=hot_expert", "data=empty_experts", "data=minus_one", "data=nan_in_unrouted",
                "data=duplicate_tokens", "data=zero_rows", "data=padding", "data=large dtype=f16",
                "data=large", "data=subnormal dtype=f16", "data=subnormal"},
               {"tokens=6 topk=3 hidden=40 intermediate=24"}});
  add_product(cases, op,
              {kSome,
               {"tokens=0", "tokens=1", "tokens=15", "tokens=16", "tokens=17", "tokens=31", "tokens=32",
                "tokens=33", "tokens=63", "tokens=64", "tokens=65"},
               {"hidden=32 intermediate=16", "hidden=24 intermediate=8 data=integers rsf=2"}});
  // More slots than any tile holds.
  add_product(cases, op, {kSome, {"tokens=1100 topk=1", "tokens=160 topk=8"}, {"hidden=16 intermediate=8"}});
  // Widths around tiles of 8, 16, 32, 64 and 128; partial scale blocks.
  add_product(cases, op,
              {kSome,
               {"hidden=2", "hidden=7", "hidden=8", "hidden=63", "hidden=65", "hidden=127", "hidden=128",
                "hidden=129", "hidden=257"},
               {"intermediate=1", "intermediate=7", "intermediate=65", "intermediate=130"},
               {"tokens=2"}});
  add_product(cases, op,
              {kSome,
               {"topk=1", "topk=8", "topk=1 experts=1", "topk=5 experts=5", "topk=10 experts=64"},
               {"tokens=3", "tokens=3 data=integers rsf=2"}});
  add_product(cases, op,
              {kSome,
               {"edit=zero:1", "edit=nan:1", "edit=minus_one:0:1", "edit=minus_one:0:0 edit=minus_one:0:1"},
               {"dtype=bf16", "dtype=f32"}});
  add_product(cases, op,
              {all,
               {"ep_size=2 ep_rank=1", "ep_size=8 ep_rank=7"},
               {"data=realistic", "data=minus_one", "data=integers rsf=2"},
               {"tokens=5"}});
  add_product(cases, op,
              {{"policy=deepseek_v4", "policy=sglang_clamp", "policy=gpt_oss"},
               {"limit=0", "limit=0.5", "limit=1"},
               {"dtype=bf16", "dtype=f32"}});
  // More than 512 rows for one expert, and as many experts as vLLM's small path ends at.
  add_product(cases, op,
              {{"policy=any", "policy=triton"},
               {"tokens=520 experts=2 topk=1", "tokens=130 data=hot_expert", "tokens=9 experts=65 topk=4"},
               {"hidden=16 intermediate=8"}});
}

void full(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> all = policy_axis(op.schema());
  add_random(cases, op, 400,
             {all,
              {"tokens=1", "tokens=2", "tokens=5", "tokens=18"},
              {"experts=8", "experts=24", "experts=64"},
              {"topk=1", "topk=2", "topk=4", "topk=8"},
              {"hidden=16", "hidden=100", "hidden=256", "hidden=300"},
              {"intermediate=8", "intermediate=50", "intermediate=128", "intermediate=144"},
              {"dtype=bf16", "dtype=f16", "dtype=f32"},
              {"ids=i32", "ids=i64"},
              {"ep_size=1", "ep_size=1", "ep_size=4 ep_rank=1"},
              {"data=realistic", "data=realistic", "data=minus_one", "data=nan_in_unrouted",
               "data=hot_expert", "data=zero_rows", "data=padding"}});
  add_random(cases, op, 200,
             {all,
              {"tokens=1", "tokens=4", "tokens=9"},
              {"experts=8", "experts=32"},
              {"topk=1", "topk=2", "topk=4", "topk=8"},
              {"hidden=16", "hidden=129", "hidden=384"},
              {"intermediate=8", "intermediate=60", "intermediate=200"},
              {"dtype=bf16", "dtype=f16", "dtype=f32"},
              {"data=integers rsf=2"}});
}

}  // namespace

std::vector<Case> experts_cases(Suite suite) {
  return cases_of(experts_operator(), suite, {quick, models_suite, adversarial, full});
}

}  // namespace moecheck::harness
