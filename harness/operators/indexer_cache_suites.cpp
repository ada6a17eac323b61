// Suites of indexer_cache.
#include "harness/operators/indexer_cache.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

using Axis = std::vector<std::string>;

// Every policy in the layouts and scale formats that its upstream has.
Axis quantizers() {
  Axis axis;
  for (const std::string& policy : policy_axis(indexer_cache_operator().schema()))
    for (const char* scale : {" scale_fmt=plain", " scale_fmt=ue8m0"})
      for (const char* layout : {" layout=row_major", " layout=preshuffled"})
        axis.push_back(policy + scale + layout);
  return axis;
}

Axis gatherers() {
  Axis axis;
  for (const std::string& policy : policy_axis(indexer_cache_operator().schema()))
    for (const char* layout : {" layout=row_major", " layout=preshuffled"}) axis.push_back(policy + layout);
  return axis;
}

const Axis kKinds = {"data=realistic", "data=integers",    "data=zero_rows",   "data=boundaries",
                     "data=ties",      "data=small_codes", "data=signed_zero", "data=floor",
                     "data=large",     "data=non_finite"};

void quick(std::vector<Case>& cases, const Operator& op) {
  add_product(
      cases, op,
      {quantizers(), {"data=realistic tokens=23 block_size=16", "data=ties tokens=17 block_size=16"}});
  add_product(cases, op,
              {{"layout=row_major", "layout=preshuffled"},
               {"data=boundaries scale_fmt=ue8m0", "data=zero_rows", "slots=negative pad=12",
                "slots=edges k_stride=160", "quant_block=64", "data=small_codes"}});
  add_product(cases, op,
              {{"form=gather"},
               gatherers(),
               {"tokens=50 block_size=16", "tokens=70 requests=5 extra_rows=3 shared=1"}});
  add_product(cases, op, {{"tokens=100 block_size=16"}, {"layout=row_major", "layout=preshuffled"}});
  add_product(
      cases, op,
      {{"form=gather"}, {"block_size=1 tokens=9", "table_pad=3 requests=11 tokens=90 block_size=16"}});
  // Rows that no vector fits; more requests than a wave has lanes.
  add_product(cases, op, {{"tokens=9 k_stride=129", "form=gather requests=60 tokens=100"}});
}

void adversarial(std::vector<Case>& cases, const Operator& op) {
  const Axis some = {"policy=any",
                     "policy=any layout=preshuffled",
                     "policy=vllm_cuda",
                     "policy=vllm_rocm_triton",
                     "policy=aiter layout=preshuffled",
                     "policy=aiter_gfx942",
                     "policy=sglang_act_quant"};
  add_product(cases, op, {quantizers(), kKinds, {"tokens=19 block_size=16"}});
  add_product(
      cases, op,
      {some, kKinds, {"dtype=f16 tokens=7", "dtype=f32 tokens=7", "dtype=f32 scale_fmt=ue8m0 tokens=7"}});
  add_product(cases, op,
              {some,
               {"slots=paged", "slots=random", "slots=sequential", "slots=negative", "slots=duplicates",
                "slots=dummy", "slots=edges"},
               {"tokens=37 block_size=16", "tokens=70 block_size=64"}});
  // aiter's wave takes 8 rows; the launch thresholds of the kernels.
  add_product(
      cases, op,
      {some, {"tokens=0", "tokens=1", "tokens=7", "tokens=8", "tokens=9", "tokens=64", "tokens=129"}});
  add_product(
      cases, op,
      {{"policy=any", "policy=any layout=preshuffled", "policy=any scale_op=divide value_op=reciprocal"},
       {"block_size=1", "block_size=2", "block_size=16", "block_size=48", "block_size=128", "block_size=256"},
       {"head_dim=128", "head_dim=64 quant_block=64", "head_dim=256", "head_dim=512",
        "head_dim=256 quant_block=256", "head_dim=48 quant_block=16", "head_dim=20 quant_block=5"},
       {"tokens=33"}});
  add_product(cases, op,
              {{"policy=any", "policy=aiter"},
               {"slot_count=5", "slot_count=30", "slot_count=0"},
               {"count=min tokens=20"}});
  add_product(cases, op,
              {{"layout=row_major", "layout=preshuffled"},
               {"ids=i32", "k_stride=136", "k_stride=129", "pad=4", "pad=8192", "edit=nan:3:5", "edit=zero:2",
                "edit=skip:1", "non_finite=code data=non_finite", "non_finite=clamped data=non_finite",
                "fp8=e4m3fnuz divisor=240", "fp8=e4m3fnuz divisor=224", "divisor=224",
                "amax_floor=1e-10 data=zero_rows", "exponent=bits scale_fmt=ue8m0"},
               {"tokens=18"}});
  // Large enough for offsets past 2^24.
  add_product(cases, op,
              {{"tokens=40 block_size=16 pad=1048576 blocks=18",
                "form=gather tokens=270 block_size=16 pad=1048576 requests=2"}});

  add_product(
      cases, op,
      {{"form=gather"},
       gatherers(),
       {"requests=1", "requests=2", "requests=7", "requests=8", "requests=9", "requests=16", "requests=33"},
       {"tokens=100 block_size=16", "tokens=130 block_size=64 shared=1"}});
  add_product(cases, op,
              {{"form=gather"},
               gatherers(),
               {"tokens=31", "tokens=32", "tokens=63", "tokens=64", "tokens=127", "tokens=128", "tokens=255",
                "tokens=256", "tokens=511", "tokens=512"},
               {"block_size=64 seed=2"}});
  add_product(cases, op,
              {{"form=gather"},
               gatherers(),
               {"block_size=1", "block_size=2", "block_size=4", "block_size=48", "block_size=256"},
               {"tokens=40", "tokens=300 requests=4"}});
  add_product(cases, op,
              {{"form=gather"},
               {"layout=row_major", "layout=preshuffled"},
               {"head_dim=64 quant_block=64", "head_dim=256", "head_dim=512", "head_dim=48 quant_block=16",
                "head_dim=20 quant_block=5"},
               {"tokens=40", "tokens=40 dst_scale=bytes pad=20",
                "tokens=40 extra_rows=9 past_rows=unchanged table_pad=2"}});
  add_product(cases, op,
              {{"form=gather"},
               {"tokens=0", "tokens=0 requests=1", "tokens=5 extra_rows=5", "tokens=40 blocks=1",
                "tokens=40 columns=2 block_size=16"}});
}

void full(std::vector<Case>& cases, const Operator& op) {
  Axis data = kKinds;
  data.insert(data.end(), {"data=realistic", "data=ties", "data=boundaries"});
  const Axis shapes = {"block_size=16",  "block_size=64", "block_size=64",
                       "block_size=128", "block_size=1",  "block_size=256"};
  const Axis widths = {"head_dim=128",
                       "head_dim=128",
                       "head_dim=128",
                       "head_dim=64 quant_block=64",
                       "head_dim=256",
                       "head_dim=512 quant_block=128",
                       "head_dim=256 quant_block=32"};
  add_random(
      cases, op, 700,
      {quantizers(),
       data,
       shapes,
       widths,
       {"tokens=1", "tokens=2", "tokens=9", "tokens=33", "tokens=70", "tokens=150"},
       {"dtype=bf16", "dtype=bf16", "dtype=f16", "dtype=f32"},
       {"slots=paged", "slots=random", "slots=negative", "slots=duplicates", "slots=edges", "slots=dummy"},
       {"pad=0", "pad=0", "pad=64"}});
  add_random(cases, op, 400,
             {{"form=gather"},
              gatherers(),
              shapes,
              widths,
              {"tokens=5", "tokens=40", "tokens=130", "tokens=400"},
              {"requests=1", "requests=3", "requests=9", "requests=20"},
              {"extra_rows=0", "extra_rows=0", "extra_rows=4"},
              {"shared=0", "shared=1"},
              {"table_pad=0", "table_pad=0", "table_pad=5"},
              {"pad=0", "pad=0", "pad=64"},
              {"dst_scale=elements", "dst_scale=bytes"}});
}

void models(std::vector<Case>& cases, const Operator& op) {
  // DeepSeek-V3.2 and GLM-5: 128 channels, one scale, pages of 64 (CUDA and preshuffled ROCm) or 1 (older ROCm).
  add_product(
      cases, op,
      {quantizers(), {"block_size=64 tokens=1", "block_size=64 tokens=300", "block_size=1 tokens=40"}});
  add_product(cases, op,
              {{"form=gather"},
               gatherers(),
               {"block_size=64 tokens=300 requests=8", "block_size=64 tokens=700 requests=2",
                "block_size=1 tokens=100"}});
}

}  // namespace

std::vector<Case> indexer_cache_cases(Suite suite) {
  return cases_of(indexer_cache_operator(), suite, {quick, models, adversarial, full});
}

}  // namespace moecheck::harness
