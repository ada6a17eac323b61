// Suites of mla_prepare.
#include "harness/operators/mla_prepare.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

using Axis = std::vector<std::string>;

Axis fused_policies() {
  return {"policy=any",
          "policy=aiter_triton",
          "policy=aiter_triton_bf16",
          "policy=aiter_triton_upcast",
          "policy=aiter_hip",
          "policy=aiter_hip_all_q",
          "policy=sglang",
          "policy=vllm"};
}

Axis caches() { return {"cache_dtype=same", "cache_dtype=e4m3fn", "cache_dtype=e4m3fnuz"}; }

void quick(std::vector<Case>& cases, const Operator& op) {
  add_product(
      cases, op,
      {fused_policies(),
       caches(),
       {"", "layout=preshuffled block_size=32 blocks=2 prefill=2 rope=neox data=integers table=full"}});
  add_product(
      cases, op,
      {{"policy=aiter_triton_bf16 cache_dtype=e4m3fn data=saturating nope_overflow=saturate "
        "rope_overflow=saturate",
        "policy=aiter_triton num_decode=4 q_dtype=e4m3fn", "num_decode=2 kv_heads=2 k_pe_out=1",
        "policy=aiter_hip cache_dtype=e4m3fn q_dtype=e4m3fn q_scale=1", "data=padding tokens=5",
        "data=bits apply_scale=0", "policy=torch_cat data=bits", "policy=sglang_concat heads=2 tokens=2",
        "policy=sglang_cat_skip heads=2 tokens=2 data=bits", "form=cat_skip q_cat_row=104 data=bits"}});
  // A row over several waves, several rows in one, and parts that different vectors divide.
  add_product(cases, op,
              {{"nope_dim=1104 rope_dim=16 heads=1 tokens=2 cache_dtype=e4m3fnuz layout=preshuffled",
                "nope_dim=16 rope_dim=16 tokens=33 heads=8 blocks=3 max_positions=8",
                "form=concat nope_dim=512 rope_dim=10 heads=1 tokens=3 data=bits"}});
}

// Heads of served models after tensor parallelism: DeepSeek-V3 and V3.2 128, Kimi-K2 and GLM-5 64; kv_lora_rank 512, rope 64.
void models(std::vector<Case>& cases, const Operator& op) {
  const Axis dims = {"nope_dim=512 rope_dim=64"};
  add_product(cases, op,
              {dims,
               fused_policies(),
               caches(),
               {"tokens=1 heads=16", "tokens=7 heads=8 max_positions=4096 data=large_positions",
                "tokens=2 heads=16 layout=preshuffled block_size=64 blocks=2"}});
  add_product(cases, op,
              {dims,
               {"policy=aiter_triton_bf16 cache_dtype=e4m3fn layout=preshuffled block_size=64"},
               {"heads=128 tokens=2", "heads=64 tokens=3 prefill=40"}});
  add_product(cases, op,
              {{"policy=sglang_concat", "policy=vllm_concat", "policy=sglang_cat_skip"},
               {"heads=16", "heads=128"},
               {"tokens=1", "tokens=33 data=bits"}});
}

void adversarial(std::vector<Case>& cases, const Operator& op) {
  const Axis layouts = {"", "layout=preshuffled", "layout=preshuffled block_size=64"};
  add_product(cases, op,
              {fused_policies(),
               caches(),
               {"data=padding tokens=7", "data=zero_rows tokens=4", "data=duplicate_slots tokens=7",
                "data=saturating tokens=3", "data=large_positions max_positions=2048 tokens=3",
                "edit=nan:1:70", "edit=nan:0:3", "edit=skip:0 edit=zero:1"}});
  const Axis some = {"policy=any", "policy=aiter_triton_bf16", "policy=aiter_triton_upcast"};
  add_product(cases, op,
              {some,
               caches(),
               layouts,
               {"rope=gptj", "rope=neox"},
               {"table=half", "table=full"},
               {"data=integers tokens=9 prefill=3", "dtype=f16 heads=2 tokens=3"}});
  // Every row of a tile, alone and together; the first and last token of a block; blocks of every supported size.
  add_product(cases, op,
              {{"policy=aiter_triton_bf16 cache_dtype=e4m3fn", "policy=aiter_triton_bf16"},
               {"layout=row_major", "layout=preshuffled"},
               {"block_size=1 blocks=40", "block_size=16", "block_size=32", "block_size=48", "block_size=64",
                "block_size=128 blocks=1", "block_size=256 blocks=1"},
               {"tokens=1", "tokens=33 heads=1 seed=3"}});
  add_product(cases, op,
              {{"policy=any", "policy=any cache_dtype=e4m3fn"},
               layouts,
               {"tokens=0", "tokens=0 prefill=3", "tokens=16", "heads=1", "heads=6 kv_heads=2 k_pe_out=1",
                "heads=8 kv_heads=8", "nope_dim=16 rope_dim=16", "nope_dim=80 rope_dim=48",
                "nope_dim=128 rope_dim=2", "nope_dim=33 rope_dim=6", "num_decode=1 tokens=5",
                "num_decode=5 tokens=5", "ids=i32 data=padding", "max_positions=1"}});
  add_product(cases, op,
              {{"q_dtype=e4m3fn", "q_dtype=e4m3fnuz"},
               {"policy=aiter_triton", "policy=aiter_hip", "policy=aiter_hip q_scale=1 cache_dtype=e4m3fnuz"},
               {"", "data=integers rope=neox"}});
  add_product(cases, op,
              {{"form=concat", "form=cat_skip", "form=cat_skip q_cat_row=96", "form=cat_skip q_cat_row=97",
                "form=cat_skip q_cat_row=200 strided=copy", "form=cat_skip q_cat_row=104"},
               {"data=bits", "data=bits dtype=f16"},
               {"tokens=0", "tokens=1", "tokens=9", "tokens=40 heads=3"}});
  add_product(cases, op,
              {{"form=concat data=bits"},
               {"nope_dim=1 rope_dim=2", "nope_dim=7 rope_dim=10", "nope_dim=512 rope_dim=64"}});
}

void full(std::vector<Case>& cases, const Operator& op) {
  add_random(cases, op, 600,
             {policy_axis(op.schema()),
              caches(),
              {"", "layout=preshuffled", "layout=preshuffled block_size=48"},
              {"tokens=1", "tokens=2 prefill=3", "tokens=5", "tokens=12", "tokens=30"},
              {"heads=1", "heads=2", "heads=4 kv_heads=2", "heads=6"},
              {"", "nope_dim=512 rope_dim=64", "nope_dim=32 rope_dim=16", "nope_dim=96 rope_dim=64"},
              {"rope=gptj", "rope=neox"},
              {"", "table=full", "table_dtype=f32"},
              {"data=realistic", "data=integers", "data=padding", "data=saturating", "data=duplicate_slots",
               "data=bits"},
              {"", "", "dtype=f16", "ids=i32", "k_pe_out=1", "q_dtype=e4m3fn"}});
}

}  // namespace

std::vector<Case> mla_prepare_cases(Suite suite) {
  return cases_of(mla_prepare_operator(), suite, {quick, models, adversarial, full});
}

}  // namespace moecheck::harness
