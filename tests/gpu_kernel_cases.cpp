// What the quick suites leave out: sizes at which specializations begin, tails behind a wave, a block or a tile, addresses and strides
// that the widest accesses do not fit, and what few policies do.
#include "gpu_kernel_cases.h"

#include <fmt/format.h>

#include <stdexcept>

#include "gpu_test_support.h"
#include "harness/operator.h"

namespace moecheck::harness {
namespace {

using Lines = std::vector<std::string>;

Lines gating() {
  Lines lines;
  for (const int experts : {20, 40, 64, 100, 128, 160, 192, 256, 384, 512, 896})
    for (const char* policy : {"hf_deepseek_v3", "aiter_gating"})  // plain; ties by lane, so general
      lines.push_back(fmt::format("policy={} experts={} tokens=3 data=ties", policy, experts));
  for (const int experts : {64, 128, 256, 512, 1024})
    lines.push_back(fmt::format("policy=hf_deepseek_v3 experts={} groups=8 topk_group=3 tokens=3", experts));
  lines.insert(
      lines.end(),
      {"policy=hf_deepseek_v3_zero experts=160 groups=8 topk_group=3 tokens=2 data=negative",
       "policy=sglang_fused experts=256 groups=8 topk_group=4 dtype=bf16 bias=bf16 tokens=2 "
       "shared_slots=2 scale_flag=1",
       "policy=hf_deepseek_v2 experts=160 groups=8 topk_group=3 topk=6 scoring=softmax renormalize=0 "
       "rsf=16 bias=none tokens=3",
       "policy=hf_deepseek_v3 experts=8 tokens=515 topk=2"});  // several waves a block, and a tail
  return lines;
}

Lines routed_scaling() {
  Lines lines = {"policy=any topk=64 experts=70",
                 "policy=aiter_fused n_shared=2 data=nan_in_unrouted ids=i64 tokens=7",
                 "policy=vllm_fp16 data=padding tokens=7",
                 "policy=any tokens=0",
                 "policy=any hidden=1",
                 "policy=any n_shared=0 edit=minus_one:0:0 edit=minus_one:0:1"};
  for (const char* dtype :
       {"bf16", "f16", "f32"})  // several waves a row and a tail; rows of no whole runs of 16 bytes
    for (const char* shape : {"policy=any hidden=1416 topk=7 tokens=2",
                              "policy=vllm_naive_batched hidden=1032 topk=6 tokens=2 data=minus_one",
                              "policy=sglang_cuda hidden=71 topk=5"})
      lines.push_back(fmt::format("{} dtype={}", shape, dtype));
  return lines;
}

Lines moe_align() {
  return {"policy=vllm tokens=0", "policy=sglang tokens=1 topk=1 experts=1",
          "policy=aiter tokens=9 local_tokens=5 data=out_of_range",
          "policy=vllm_old tokens=37 topk=6 experts=64 data=out_of_range block_size=7",
          "policy=sglang tokens=65 topk=8 experts=64 data=one_expert ids=i64",
          "policy=aiter tokens=33 topk=8 experts=160 data=hot_expert",
          "policy=permute_deepgemm tokens=5 hidden=33 ep_size=2 ep_rank=1",
          "policy=permute_k_major tokens=40 topk=5 experts=20 hidden=7 dtype=f32",
          // More experts or slots than one block sorts.
          "policy=vllm tokens=0 experts=1100",
          "policy=vllm tokens=40 topk=8 experts=1100 ep_size=4 ep_rank=1 ignore_invalid=1",
          "policy=permute_k_major tokens=7 topk=6 experts=1200 hidden=8 ep_size=2 data=out_of_range",
          "policy=aiter tokens=135 topk=40 experts=64 ep_size=4 ep_rank=3"};
}

Lines indexer_cache() {
  Lines lines = {
      "tokens=5",
      "k_stride=129 tokens=9 scale_op=divide value_op=divide",
      "head_dim=192 quant_block=64 tokens=23 layout=preshuffled",
      "form=gather block_size=1 tokens=60",
      "tokens=1030 head_dim=16 quant_block=16",
      "k_stride=129 tokens=3 fp8=e4m3fnuz divisor=224",
      "head_dim=20 quant_block=5 tokens=7 block_size=2",
      "head_dim=48 quant_block=48 tokens=4 layout=preshuffled",
      "head_dim=2048 quant_block=2048 tokens=3",
      "head_dim=512 quant_block=512 tokens=3 scale_fmt=ue8m0",
      "dtype=f32 data=large tokens=5",
      "dtype=f32 amax_floor=1e-30 data=zero_rows value_op=divide tokens=5",
      "non_finite=code data=non_finite tokens=9",
      "non_finite=clamped data=non_finite tokens=9 value_op=reciprocal",
      "non_finite=clamped data=non_finite tokens=9 fp8=e4m3fnuz divisor=240 scale_fmt=ue8m0 k_stride=129",
      "block_size=1 tokens=7",
      "slots=duplicates tokens=20",
      "tokens=0",
      "slot_count=3 count=min tokens=9",
      "ids=i32 slots=negative tokens=11",
      "form=gather head_dim=20 quant_block=5 tokens=40",
      "form=gather head_dim=6 quant_block=3 tokens=40 block_size=2",
      "form=gather block_size=16 layout=preshuffled pad=12 tokens=40 dst_scale=bytes",
      "form=gather head_dim=256 quant_block=32 layout=preshuffled tokens=40",
      "form=gather tokens=0",
      "form=gather tokens=5 extra_rows=5",
      "form=gather tokens=400 requests=200",  // a wave's lanes look for the request more than once
      "form=gather tokens=16390 requests=3 layout=preshuffled"};  // some waves in a block
  for (const char* dtype : {"f32", "bf16", "f16"})
    for (const char* fp8 : {"fp8=e4m3fn", "fp8=e4m3fnuz divisor=240"})
      for (const char* shape : {"", "head_dim=192 quant_block=64 layout=preshuffled"})
        lines.push_back(fmt::format("tokens=5 dtype={} {} {}", dtype, fp8, shape));
  return lines;
}

Lines mla_prepare() {
  Lines lines = {
      "nope_dim=33 rope_dim=6 tokens=3 heads=2",
      "nope_dim=33 rope_dim=6 rope=neox table=full cache_dtype=e4m3fn",
      "rounding=stored rope=neox table_dtype=f32 dtype=f16 kv_heads=2 k_pe_out=1 tokens=5 prefill=2",
      "nope_dim=640 rope_dim=320 rope=neox heads=1 tokens=2",
      "nope_dim=2048 rope_dim=32 heads=1 tokens=2",
      "cache_dtype=e4m3fn layout=preshuffled kv_heads=2 block_size=32 scaling=divide tokens=6",
      "tokens=0 prefill=3",
      "tokens=0 num_decode=0",
      "data=padding ids=i32 padded=skip_row num_decode=4 tokens=9",
      "data=padding padded=clamp_q tokens=9",
      "form=concat nope_dim=7 rope_dim=10 data=bits",
      "form=concat nope_dim=6 rope_dim=10 data=bits",
      "form=concat tokens=0",
      "form=cat_skip q_cat_row=97 data=bits tokens=5",
      "form=cat_skip q_cat_row=200 strided=copy heads=3",
      "form=cat_skip strided=copy"};
#ifndef MOECHECK_UNDER_TSAN  // tokens of one slot race for it, as the contract lets them
  lines.emplace_back("data=duplicate_slots tokens=7");
#endif
  return lines;
}

Lines moe_block() {
  const std::string small = "tokens=3 hidden=24 intermediate=16";
  Lines lines;
  for (const Preset& p : find_operator("moe_block")->schema().policies)
    lines.push_back(fmt::format("policy={} {}", p.name, small));
  lines.insert(lines.end(),
               {"policy=sglang_cuda tokens=67 hidden=24 intermediate=8",
                "policy=vllm_cuda ep_size=4 ep_rank=3 " + small,
                "policy=any n_shared=2 shared_gate=1 dtype=f16 tokens=2 hidden=72 intermediate=8",
                "policy=any n_shared=0 " + small, "policy=vllm_fp8 n_shared=2 topk=3 " + small});
  return lines;
}

}  // namespace

const std::vector<GpuKernelCases>& gpu_kernel_cases() {
  static const std::vector<GpuKernelCases> all = {
      {"gating", 28, 20, 5, gating()},
      {"routed_scaling", 18, 1, 7, routed_scaling()},
      {"shared_experts",
       6,
       1,
       7,
       {"policy=vllm_rocm ep_size=3 ep_rank=2 tokens=35 n_shared=2",
        "policy=sglang topk=64 n_shared=16 experts=64 tokens=3", "policy=qwen3_next dtype=f32 tokens=70",
        "policy=qwen3_next dtype=f16 n_shared=3 data=minus_one",
        "policy=aiter_append append_weight=0.25 topk=1", "policy=sglang renormalize=0 topk=6 tokens=33",
        "policy=aiter_append tokens=0", "policy=split dtype=bf16 hidden=7 intermediate=5",
        "policy=split_ptpc hidden=9 intermediate=3"}},
      {"moe_align", 8, 1, 5, moe_align()},
      {"indexer_cache", 2 * (13 + 2) + 3, 1, 6, indexer_cache()},
      {"mqa_logits",
       2 * (6 + 2 + 1),
       1,
       4,
       {"tokens=4 next_n=2 context=75 topk=9",  // waves take several tiles
        "layout=preshuffled block_size=32 context=40 heads=5 dtype=bf16",
        "policy=aiter_fnuz heads=64 tokens=1 context=40",
        "policy=aiter heads=64 tokens=1 context=17 contexts=full",  // words of 4 bytes, and a block per key
        "policy=aiter heads=32 tokens=1 context=18",
        "policy=aiter heads=7 head_dim=48 tokens=2 context=40 topk=3",
        "form=ragged compressed=1 heads=12 head_dim=100 tokens=2 context=135 topk=20 row_pad=3",
        "form=ragged heads=3 head_dim=80 tokens=4 next_n=2 context=33 fill=undefined dot=bf16",
        "heads=5 head_dim=3 block_size=4 tokens=2 context=9 data=integers",  // read byte by byte
        "heads=2 head_dim=16 tokens=1 context=520 contexts=full data=near_ties topk=333 dtype=bf16",
        "contexts=short next_n=4 tokens=8 topk=6 width=50", "tokens=0"}},
      {"mla_prepare", 12, 1, 5, mla_prepare(), {"copy, single bytes"}},
      {"experts",
       2 * (4 + 4 + 4 + 6),
       12,
       6,
       {"policy=triton tokens=3 hidden=64 intermediate=32",
        "policy=vllm_fp8 tokens=2 hidden=136 intermediate=144",  // a block of 128 has gate and up; partial blocks
        "policy=triton tokens=5 topk=3 hidden=37 intermediate=29 ep_size=4 ep_rank=3",  // number by number
        "policy=vllm_fp8 tokens=66 topk=2 experts=2 hidden=40 intermediate=24",  // more than one run of slots
        "policy=any dtype=f16 tokens=2 hidden=24 intermediate=12",
        "policy=fp8_weight_only dtype=f16 tokens=1 topk=1 hidden=24 intermediate=8",
        "policy=fp8_weight_only dtype=f32 fp8=e4m3fnuz tokens=1 topk=1 hidden=24 intermediate=8",
        "policy=fused_f32 round_product=none tokens=2 hidden=24 intermediate=16",
        "policy=fused_f32 round_product=none dtype=f16 tokens=18 experts=1 topk=1 hidden=8 intermediate=8",
        "policy=triton tokens=2 topk=1 hidden=1032 intermediate=3",  // segments
        // Also in the quick suite, for faults.
        "policy=triton tokens=33 topk=4 experts=70 hidden=40 intermediate=3",  // more experts than lanes, many slots
        "policy=naive_batched tokens=18 experts=2 hidden=16 intermediate=8",  // more slots than a tile has
        "policy=any dtype=f32 ids=i64 tokens=2 hidden=136 intermediate=4 data=minus_one",
        "policy=aiter_fnuz tokens=1 hidden=1040 intermediate=8",
        "policy=gpt_oss limit=1 tokens=2 hidden=24 intermediate=20",
        "policy=sglang_fp8 data=zero_rows tokens=3 hidden=32 intermediate=16", "policy=triton tokens=0"}},
      {"moe_block", 2 * 4, 24, 6, moe_block()},
  };
  return all;
}

const GpuKernelCases* find_gpu_kernel_cases(std::string_view op) {
  for (const GpuKernelCases& k : gpu_kernel_cases())
    if (k.op == op) return &k;
  return nullptr;
}

std::vector<Case> gpu_further_cases(std::string_view op) {
  const Operator& o = *find_operator(op);
  std::vector<Case> list;
  for (const std::string& line : find_gpu_kernel_cases(op)->lines) {
    list.push_back(parse_case(o.schema(), fmt::format("{} {}", op, line)));
    if (const auto why = o.refusal(list.back())) throw std::runtime_error(line + ": " + *why);
  }
  return list;
}

}  // namespace moecheck::harness
