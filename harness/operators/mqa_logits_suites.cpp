// Suites of mqa_logits.
#include "harness/operators/mqa_logits.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

const std::vector<std::string> kKinds = {"data=realistic",   "data=integers", "data=near_ties",
                                         "data=negative",    "data=large",    "data=subnormal_codes",
                                         "data=wide_scales", "data=poison",   "data=shared_prefix"};

void add_quick(std::vector<Case>& cases, const Operator& op) {
  add_product(cases, op,
              {policy_axis(op.schema()),
               {"heads=8 tokens=4 next_n=2 context=70 contexts=edges", "heads=8 tokens=1 context=5"}});
  add_product(cases, op,
              {{"", "layout=preshuffled block_size=32", "form=ragged"},
               {"tokens=6 next_n=3 topk=7", "data=integers heads=5 fill=undefined topk=50",
                "dtype=bf16 tokens=8 context=33 fp8=e4m3fnuz"}});
  // As many heads as a wave has lanes, and more.
  add_product(cases, op,
              {{"policy=deep_gemm_2d heads=32 tokens=2 next_n=2 context=37",
                "heads=70 head_dim=36 tokens=1 context=15 fp8=e4m3fnuz"}});
  // Rows that see nothing, behind the first column.
  add_product(cases, op, {{"form=ragged tokens=12 next_n=4 contexts=short width=300 topk=6"}});
}

void add_adversarial(std::vector<Case>& cases, const Operator& op) {
  const std::vector<std::string> forms = {"", "layout=preshuffled",
                                          "layout=preshuffled block_size=64 head_dim=128", "form=ragged"};
  add_product(cases, op,
              {forms,
               kKinds,
               {"tokens=6 next_n=2 topk=9 context=100", "tokens=3 fill=prefilled row_pad=5 contexts=edges"}});
  add_product(cases, op,
              {forms,
               {"contexts=short next_n=4 tokens=12 topk=6", "contexts=edges tokens=7 context=130",
                "contexts=full next_n=5 tokens=10", "lengths=2d next_n=3 tokens=9 topk=20"},
               {"fill=minus_inf width=300", "fill=prefilled width=201 row_pad=3", "fill=undefined"}});
  // Block sizes and lengths around their multiples; widths that no block ends at.
  add_product(cases, op,
              {{"block_size=1", "block_size=2", "block_size=16", "block_size=64", "block_size=256",
                "block_size=48 layout=preshuffled", "block_size=256 layout=preshuffled",
                "block_size=64 layout=preshuffled block_pad=60"},
               {"context=1", "context=63", "context=64", "context=65", "context=257"},
               {"fill=prefilled", "lengths=2d topk=64"}});
  add_product(cases, op,
              {{"heads=1", "heads=2", "heads=7", "heads=8", "heads=24", "heads=32", "heads=64"},
               {"head_dim=4 block_size=1", "head_dim=16 layout=preshuffled", "head_dim=64 layout=preshuffled",
                "head_dim=100", "head_dim=256 layout=preshuffled block_size=32"},
               {"tokens=2 context=37", "form=ragged compressed=1 tokens=4 next_n=2 context=21"}});
  add_product(cases, op,
              {{"", "form=ragged"},
               {"tokens=0", "context=0", "context=1 topk=4", "edit=zero:1", "edit=nan:1 topk=5", "topk=1",
                "topk=41", "dot=bf16", "dot=bf16 data=integers", "next_n=40 tokens=80 contexts=full"}});
  // Blocks whose byte offsets pass 2^31.
  add_product(cases, op, {{"data=far_blocks block_size=256 head_dim=128 context=300 tokens=2"}});
}

void add_models(std::vector<Case>& cases, const Operator& op) {
  // DeepSeek-V3.2 and GLM-5: 64 and 32 heads of 128, top-2048.
  add_product(cases, op,
              {{"policy=deep_gemm_2d", "policy=aiter_preshuffle width=2560", "policy=sglang_cuda",
                "policy=deep_gemm_ragged"},
               {"heads=64", "heads=32"},
               {"tokens=1 context=2300 topk=2048", "tokens=4 next_n=2 context=300 topk=64"}});
}

void add_full(std::vector<Case>& cases, const Operator& op) {
  add_random(cases, op, 400,
             {{"", "layout=preshuffled", "form=ragged", "policy=deep_gemm_2d", "policy=sglang_hip",
               "policy=aiter", "policy=vllm_torch_ragged"},
              kKinds,
              {"tokens=1", "tokens=4", "tokens=12"},
              {"next_n=1", "next_n=2", "next_n=4"},
              {"context=1", "context=17", "context=100", "context=256"},
              {"contexts=mixed", "contexts=edges", "contexts=short", "contexts=full"},
              {"lengths=1d", "lengths=2d"},
              {"heads=1", "heads=5", "heads=8", "heads=32"},
              {"head_dim=32", "head_dim=64", "head_dim=128"},
              {"block_size=1", "block_size=16", "block_size=64", "block_size=256"},
              {"fp8=e4m3fn", "fp8=e4m3fnuz"},
              {"dtype=f32", "dtype=bf16"},
              {"fill=minus_inf", "fill=prefilled", "fill=undefined"},
              {"topk=0", "topk=5", "topk=64"}});
}

}  // namespace

std::vector<Case> mqa_logits_cases(Suite suite) {
  return cases_of(mqa_logits_operator(), suite, {add_quick, add_models, add_adversarial, add_full});
}

}  // namespace moecheck::harness
