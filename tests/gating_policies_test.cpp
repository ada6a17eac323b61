// The presets: each accepts what its upstream takes, refuses what it does not and says why, and computes as
// its source does.
#include "reference/gating_policies.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/gating_test_support.h"

namespace moecheck::tests {
namespace {

using Change = void (*)(GatingOptions&);

// A request that the preset accepts.
GatingOptions accepted(std::string_view name) {
  auto o = sizes(256, 8, 4, 8);
  const auto is = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (is({"hf_qwen3_next", "sglang_kimi_small", "sglang_kimi_large", "sglang_jit", "sglang_topk_sigmoid",
          "sglang_topk_softmax", "sglang_topk_softmax_any", "vllm_topk_softmax", "vllm_softplus",
          "aiter_gating", "aiter_topk_softmax"})) {
    o.groups = o.topk_group = 1;
  }
  if (is({"hf_deepseek_v2", "hf_qwen3_next", "sglang_torch_v2", "sglang_topk_softmax",
          "sglang_topk_softmax_any", "vllm_topk_softmax", "aiter_topk_softmax"})) {
    o.scoring = Scoring::kSoftmax;
    o.has_bias = false;
  }
  if (name == "sglang_topk_softmax_any") o.experts = 160;
  if (name == "hf_deepseek_v2") o.renormalize = false;
  if (name == "vllm_softplus") o.scoring = Scoring::kSqrtSoftplus;
  o.policy = find_gating_preset(name)->policy;
  return o;
}

std::int64_t tokens_for(std::string_view name) { return name == "sglang_kimi_large" ? 600 : 4; }

std::string answer(std::string_view name, const GatingOptions& o, std::int64_t tokens) {
  return find_gating_preset(name)->refuses(o, tokens).value_or("accepted");
}

TEST(GatingPresets, AcceptWhatTheyAreFor) {
  std::set<std::string_view> names;
  for (const GatingPreset& p : gating_presets()) {
    EXPECT_TRUE(names.insert(p.name).second) << p.name << " twice";
    EXPECT_FALSE(p.summary.empty() || p.source.empty()) << p.name;
    EXPECT_EQ(find_gating_preset(p.name), &p);
    EXPECT_EQ(answer(p.name, accepted(p.name), tokens_for(p.name)), "accepted");
    EXPECT_EQ(refusal(accepted(p.name)).value_or("accepted"), "accepted") << p.name;
  }
  EXPECT_EQ(find_gating_preset("sglang"), nullptr);
  EXPECT_GE(names.size(), 18u);
}

struct Case {
  const char* policy;
  Change change;
  const char* says;
  std::int64_t tokens = 4;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.policy << ": " << c.says; }

class GatingRefusals : public testing::TestWithParam<Case> {};

TEST_P(GatingRefusals, SayWhatAndWhatInstead) {
  const Case& c = GetParam();
  auto o = accepted(c.policy);
  c.change(o);
  const std::string text = answer(c.policy, o, c.tokens);
  EXPECT_NE(text.find(c.says), std::string::npos) << text;
  EXPECT_NE(text.find(std::string("policy ") + c.policy), std::string::npos) << text;
  EXPECT_NE(text.find("; use "), std::string::npos) << text;
}

#define WITH(...) [](GatingOptions& o) { __VA_ARGS__; }

void no_renorm_scaled(GatingOptions& o) {
  o.renormalize = false;
  o.scale_flag = true;
  o.routed_scaling_factor = 16;
}

const Case kRefusals[] = {
    {"hf_deepseek_v3", WITH(o.scoring = Scoring::kSoftmax), "scoring=softmax"},
    {"hf_deepseek_v3", WITH(o.has_bias = false), "no bias"},
    {"hf_deepseek_v3_zero", WITH(o.logits_dtype = DType::kBF16), "logits_dtype=bf16"},
    {"hf_deepseek_v2", WITH(o.has_bias = true), "a bias: "},
    {"hf_deepseek_v2", WITH(o.renormalize = true), "renormalize=true"},
    {"hf_qwen3_next", WITH(o.routed_scaling_factor = 2.5), "routed_scaling_factor=2.5"},
    {"hf_qwen3_next", WITH(o.groups = 8), "groups=8"},
    {"sglang_fused", WITH(o.experts = 160),
     "experts=160 is not a power of two: policy sglang_fused needs one; use vllm_cuda"},
    {"sglang_fused", WITH(o.groups = o.topk_group = 4), "experts per group=64"},
    {"sglang_fused", WITH(o.bias_dtype = DType::kBF16), "bias_dtype=bf16 beside logits_dtype=f32"},
    {"sglang_fused", WITH(o.renormalize = false), "renormalize=false"},
    {"sglang_fused", WITH(o.scoring = Scoring::kSoftmax), "scoring=softmax"},
    {"sglang_torch", WITH(o.shared = 2), "shared=2"},
    {"sglang_torch", WITH(o.shared = 1; o.renormalize = false), "renormalize=false with shared=1"},
    {"sglang_torch", WITH(o.experts = 16; o.topk = 8; o.shared = 1), "topk+shared=9"},
    {"sglang_torch", no_renorm_scaled, "routed_scaling_factor=16"},
    {"sglang_torch_v2", no_renorm_scaled, "would drop it"},
    {"sglang_torch_v2", WITH(o.has_bias = true), "use sglang_torch"},
    {"sglang_flashinfer", WITH(o.experts = 288), "experts=288"},
    {"sglang_flashinfer", WITH(o.topk = 10), "topk=10"},
    {"sglang_flashinfer", WITH(o.topk_group = 5), "candidates=160"},
    {"sglang_flashinfer", WITH(o.experts = 128; o.groups = 16; o.topk_group = 6), "topk_group=6"},
    {"sglang_flashinfer", WITH(o.experts = 512; o.groups = 16), "experts=512"},
    {"sglang_flashinfer", WITH(o.experts = 512; o.groups = o.topk_group = 1), "at most 384"},
    {"sglang_flashinfer", WITH(o.shared = 2), "every shared slot"},
    {"sglang_flashinfer", WITH(o.renormalize = false), "renormalizes whatever"},
    {"sglang_kimi_small", WITH(o.experts = 160), "experts=160"},
    {"sglang_kimi_small", WITH(o.topk = 9), "topk=9"},
    {"sglang_kimi_small", WITH(o.groups = 8), "groups=8"},
    {"sglang_kimi_small", WITH(o.logits_dtype = DType::kBF16), "logits_dtype=bf16"},
    {"sglang_kimi_small", WITH(o.bias_dtype = DType::kF16), "bias_dtype=f16"},
    {"sglang_kimi_small", [](GatingOptions&) {}, "tokens=513", 513},
    {"sglang_kimi_large", [](GatingOptions&) {}, "tokens=512", 512},
    {"sglang_kimi_large", no_renorm_scaled, "would drop it", 513},
    {"sglang_jit", WITH(o.experts = 640), "experts=640"},
    {"sglang_jit", WITH(o.topk = 9), "topk=9"},
    {"sglang_jit", WITH(o.groups = 2), "groups=2"},
    {"sglang_triton", WITH(o.scoring = Scoring::kSoftmax), "scoring=softmax"},
    {"sglang_triton", WITH(o.bias_dtype = DType::kBF16), "bias_dtype=bf16"},
    {"sglang_triton", WITH(o.shared = 1; o.renormalize = false), "sum / routed_scaling_factor"},
    {"sglang_topk_sigmoid", WITH(o.shared = 2), "one shared slot"},
    {"sglang_topk_sigmoid", WITH(o.renormalize = false; o.routed_scaling_factor = 2.5), "would drop it"},
    {"sglang_topk_softmax", WITH(o.routed_scaling_factor = 16), "routed_scaling_factor=16"},
    {"sglang_topk_softmax", WITH(o.experts = 160), "sglang_topk_softmax_any"},
    {"sglang_topk_softmax", WITH(o.has_bias = true; o.bias_dtype = DType::kBF16), "bias_dtype=bf16"},
    {"sglang_topk_softmax_any", WITH(o.experts = 128), "use sglang_topk_softmax"},
    {"sglang_topk_softmax_any", WITH(o.topk = 1), "topk=1"},
    {"vllm_torch", WITH(o.scoring = Scoring::kSqrtSoftplus), "scoring=sqrtsoftplus"},
    {"vllm_cuda", WITH(o.groups = 64), "groups=64"},
    {"vllm_cuda", WITH(o.topk = 40), "topk=40"},
    {"vllm_cuda", WITH(o.has_bias = false), "no bias"},
    {"vllm_cuda", WITH(o.logits_dtype = DType::kBF16), "reads both as one dtype"},
    {"vllm_topk_softmax", WITH(o.has_bias = true), "takes none"},
    {"vllm_topk_softmax", WITH(o.routed_scaling_factor = 2), "routed_scaling_factor=2:"},
    {"vllm_softplus", WITH(o.experts = 160), "experts=160"},
    {"vllm_softplus", WITH(o.scoring = Scoring::kSigmoid), "scoring=sigmoid"},
    {"aiter_hip", WITH(o.groups = 16), "groups=16"},
    {"aiter_hip", WITH(o.experts = 60; o.groups = 4), "experts per group=15"},
    {"aiter_hip", WITH(o.scale_flag = true), "scale_flag=true"},
    {"aiter_sort", WITH(o.topk = 6), "256/8/4/6"},
    {"aiter_sort", WITH(o.renormalize = false; o.routed_scaling_factor = 2.5), "use aiter_hip"},
    {"aiter_bigm", WITH(o.groups = 4), "experts per group=64"},
    {"aiter_bigm", WITH(o.renormalize = false), "asserts renormalization"},
    {"aiter_bigm", WITH(o.routed_scaling_factor = 2.5), "never multiplies by it"},
    {"aiter_gating", WITH(o.bias_dtype = DType::kBF16; o.logits_dtype = DType::kF16), "bias_dtype=bf16"},
    {"aiter_gating", WITH(o.topk = 65), "topk=65"},
    {"aiter_topk_softmax", WITH(o.shared = 3), "shared=3"},
};

INSTANTIATE_TEST_SUITE_P(All, GatingRefusals, testing::ValuesIn(kRefusals));

TEST(GatingOptions, WhatNoGateCanDo) {
  const auto says = [](Change change) {
    GatingOptions o = sizes(256, 8, 4, 8);
    change(o);
    return refusal(o).value_or("accepted");
  };
  EXPECT_EQ(says([](GatingOptions&) {}), "accepted");
  EXPECT_EQ(says(WITH(o = sizes(64, 8, 1, 9))),
            "topk=9 exceeds the 8 experts of topk_group=1 groups: use a smaller topk or more groups");
  EXPECT_NE(says(WITH(o.groups = 7)).find("groups=7 do not divide experts=256"), std::string::npos);
  EXPECT_NE(says(WITH(o.topk_group = 9)).find("topk_group=9"), std::string::npos);
  EXPECT_NE(says(WITH(o.topk = 0)).find("topk=0"), std::string::npos);
  EXPECT_NE(says(WITH(o = sizes(8, 8, 4, 2))).find("groups=8 of one expert"), std::string::npos);
  EXPECT_EQ(says(WITH(o = sizes(8, 8, 4, 2); o.has_bias = false)), "accepted");
  EXPECT_NE(says(WITH(o.shared = 1)).find("no fused shared slots"), std::string::npos);
  EXPECT_NE(says(WITH(o.routed_scaling_factor = 0)).find("routed_scaling_factor=0"), std::string::npos);
  EXPECT_NE(says(WITH(o.logits_dtype = DType::kE4M3FN)).find("e4m3fn"), std::string::npos);
  EXPECT_NE(says(WITH(o.padded_tokens = -1)).find("padded_tokens=-1"), std::string::npos);
  EXPECT_NE(says(WITH(o.experts = 0)).find("experts=0"), std::string::npos);
}

// On an ordinary row every sigmoid preset chooses the same experts; the weights differ by the scale alone.
TEST(GatingPresets, AgreeOnOrdinaryRows) {
  const auto logits = normal(256, 3), bias = normal(256, 4, 0, 0.1);
  auto plain = accepted("hf_deepseek_v3");
  plain.groups = plain.topk_group = 1;
  const GateRun golden(plain, logits, bias);
  std::set<std::int64_t> experts(golden.ids.begin(), golden.ids.end());
  for (const GatingPreset& p : gating_presets()) {
    auto o = accepted(p.name);
    o.groups = o.topk_group = 1;
    if (o.scoring != Scoring::kSigmoid || p.name == "aiter_sort") continue;
    const GateRun run(o, logits, bias);
    EXPECT_EQ(std::set<std::int64_t>(run.ids.begin(), run.ids.end()), experts) << p.name;
    for (std::size_t k = 0; k < 8; ++k) {
      EXPECT_LE(std::fabs(run.weights[k].value - golden.weights[k].value),
                run.weights[k].proven + golden.weights[k].proven);
    }
  }
}

struct Behaviour {
  const char* policy;
  double sum, sum_with_flag;       // of the routed weights at routed_scaling_factor=2.5, renormalized
  std::vector<std::int64_t> tied;  // the first ids of an all-equal row; empty: not promised
};

TEST(GatingPresets, ScaleAndTieTable) {
  const Behaviour table[] = {
      {"hf_deepseek_v3", 2.5, 2.5, {}},
      {"hf_deepseek_v3_zero", 2.5, 2.5, {}},
      {"sglang_fused", 1, 2.5, {0, 1, 2}},
      {"sglang_torch", 1, 2.5, {}},
      {"sglang_flashinfer", 1, 2.5, {0, 1, 2}},
      {"sglang_kimi_small", 1, 2.5, {0, 16, 8}},
      {"sglang_kimi_large", 1, 2.5, {0, 1, 2}},
      {"sglang_jit", 2.5, 2.5, {0, 1, 2}},
      {"sglang_triton", 1, 2.5, {0, 1, 2}},
      {"sglang_topk_sigmoid", 2.5, 2.5, {0, 1, 2}},
      {"vllm_torch", 2.5, 2.5, {}},
      {"vllm_cuda", 2.5, 2.5, {0, 1, 2}},
      {"vllm_softplus", 2.5, 2.5, {0, 1, 2}},
      {"aiter_hip", 2.5, 2.5, {}},
      {"aiter_sort", 2.5, 2.5, {}},
      {"aiter_bigm", 1, 1, {224, 225, 226}},  // of equal groups the lower are dropped
      {"aiter_gating", 2.5, 2.5, {0, 64, 128}},
      {"sglang_topk_softmax_any", 1, 1, {159, 158, 157}},
  };
  for (const Behaviour& b : table) {
    auto o = accepted(b.policy);
    if (std::string_view(b.policy) == "aiter_bigm") o.topk_group = 1;
    o.routed_scaling_factor = 2.5;
    for (bool flag : {false, true}) {
      o.scale_flag = flag;
      const auto experts = static_cast<std::size_t>(o.experts);
      const GateRun run(o, std::vector<double>(experts, 0.7), std::vector<double>(o.has_bias ? experts : 0));
      double sum = 0, bound = 0;
      for (const auto& w : run.weights) {
        sum += w.value;
        bound += w.proven;
      }
      EXPECT_LE(std::fabs(sum - (flag ? b.sum_with_flag : b.sum)), bound) << b.policy;
      const bool promised = run.gate.expert_order(run.row, run.ids[0], run.ids[1]) == Order::kBefore;
      EXPECT_EQ(promised, !b.tied.empty()) << b.policy;
      const auto first = std::min<std::ptrdiff_t>(3, static_cast<std::ptrdiff_t>(b.tied.size()));
      EXPECT_TRUE(std::equal(b.tied.begin(), b.tied.begin() + first, run.ids.begin())) << b.policy;
    }
  }
}

}  // namespace
}  // namespace moecheck::tests
