// The C API of libmoecheck.so, as a C caller uses it.
#include "harness/plugin/moecheck_c.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "harness/json.h"

namespace {

const char* const kLine = "gating policy=sglang_fused experts=8 topk=2 tokens=3";

nlohmann::json taken(char* text) {
  EXPECT_NE(text, nullptr) << moecheck_last_error();
  if (text == nullptr) return {};
  const auto j = nlohmann::json::parse(text);
  moecheck_free(text);
  return j;
}

bool error_says(const std::string& words) {
  return std::string(moecheck_last_error()).find(words) != std::string::npos;
}

// The tensors of the case above.
struct Gating {
  float logits[24] = {}, bias[8] = {}, weights[6] = {};
  std::int32_t ids[6] = {};
  std::int64_t rows[2] = {3, 8}, experts[1] = {8}, slots[2] = {3, 2};
  moecheck_tensor all[4] = {};
  const moecheck_tensor *in[2] = {&all[1], &all[0]}, *out[2] = {&all[2], &all[3]};  // inputs in another order

  Gating() {
    set(all[0], "router_logits", logits, 2, rows, MOECHECK_DL_FLOAT);
    set(all[1], "e_score_correction_bias", bias, 1, experts, MOECHECK_DL_FLOAT);
    set(all[2], "topk_weights", weights, 2, slots, MOECHECK_DL_FLOAT);
    set(all[3], "topk_ids", ids, 2, slots, MOECHECK_DL_INT);
  }
  static void set(moecheck_tensor& t, const char* name, void* data, int rank, std::int64_t* shape, int code) {
    t.struct_size = sizeof t;
    t.name = name;
    t.tensor.data = data;
    t.tensor.device.device_type = static_cast<decltype(t.tensor.device.device_type)>(MOECHECK_CPU);
    t.tensor.ndim = rank;
    t.tensor.shape = shape;
    t.tensor.dtype = {static_cast<std::uint8_t>(code), 32, 1};
  }
};

TEST(CApi, DescribesAndLists) {
  EXPECT_EQ(moecheck_c_abi(), MOECHECK_C_ABI);
  EXPECT_EQ(taken(moecheck_operators())[0], "gating");
  const auto d = taken(moecheck_describe(kLine));
  EXPECT_EQ(d["inputs"][0]["name"], "router_logits");
  EXPECT_EQ(d["inputs"][0]["shape"], (std::vector<int>{3, 8}));
  EXPECT_EQ(d["fields"]["policy"], "sglang_fused");
  EXPECT_TRUE(taken(moecheck_describe("gating policy=sglang_fused experts=160"))["refused"].is_string());
  EXPECT_GT(taken(moecheck_cases("gating", "quick", "sglang_fused")).size(), 0u);
}

TEST(CApi, ReferencePassesAndAWrongResultFails) {
  Gating g;
  ASSERT_EQ(moecheck_generate(kLine, 2, g.in), 0) << moecheck_last_error();
  ASSERT_EQ(moecheck_reference(kLine, 2, g.in, 2, g.out), 0) << moecheck_last_error();
  EXPECT_FALSE(taken(moecheck_judge(kLine, 2, g.in, 2, g.out, "mine"))["failed"]);
  for (float& w : g.weights) w *= 2.5f;
  const auto wrong = taken(moecheck_judge(kLine, 2, g.in, 2, g.out, "mine"));
  EXPECT_EQ(wrong["verdict"], "FAIL");
  EXPECT_NE(wrong["cause"].get<std::string>().find("routed_scaling_factor"), std::string::npos)
      << wrong["cause"];
}

TEST(CApi, ErrorsAreNamed) {
  Gating g;
  EXPECT_EQ(moecheck_describe("gatting tokens=1"), nullptr);
  EXPECT_TRUE(error_says("gatting")) << moecheck_last_error();
  EXPECT_EQ(moecheck_describe(nullptr), nullptr);
  EXPECT_TRUE(error_says("null pointer"));
  EXPECT_EQ(moecheck_cases("gating", "quick", "sglang_fuse"), nullptr);
  EXPECT_TRUE(error_says("did you mean sglang_fused"));
  EXPECT_NE(moecheck_generate(kLine, 1, g.in), 0);
  EXPECT_TRUE(error_says("input router_logits [3, 8] is missing")) << moecheck_last_error();
  g.rows[1] = 7;
  EXPECT_NE(moecheck_generate(kLine, 2, g.in), 0);
  EXPECT_TRUE(error_says("its shape must be [3, 8], and is [3, 7]")) << moecheck_last_error();
  g.rows[1] = 8;
  g.all[0].tensor.dtype.bits = 16;
  EXPECT_NE(moecheck_generate(kLine, 2, g.in), 0);
  EXPECT_TRUE(error_says("router_logits: it must be f32")) << moecheck_last_error();
}

// The reference as the caller's function, right or with a factor.
int gate(void* user, const moecheck_call* call) {
  const float factor = *static_cast<const float*>(user);
  if (factor == 0) return moecheck_fail(call, "no kernel for this shape");
  if (moecheck_reference(call->c->line, call->num_inputs, call->inputs, call->num_outputs, call->outputs) !=
      0)
    return moecheck_fail(call, moecheck_last_error());
  const DLTensor* w = moecheck_output(call, "topk_weights");
  for (std::int64_t i = 0; i < w->shape[0] * w->shape[1]; ++i) static_cast<float*>(w->data)[i] *= factor;
  return 0;
}

TEST(CApi, ChecksAFunction) {
  float factor = 1;
  const std::uint32_t all = MOECHECK_CHECK_SHRINK | MOECHECK_CHECK_CLAUSES | MOECHECK_CHECK_RELATIONS;
  const auto right = taken(moecheck_check(kLine, "mine", gate, &factor, all));
  EXPECT_FALSE(right["failed"]) << right["text"];
  factor = 2.5f;
  const auto wrong = taken(moecheck_check(kLine, "mine", gate, &factor, all));
  EXPECT_EQ(wrong["verdict"], "FAIL");
  EXPECT_NE(wrong["smallest"].get<std::string>().find("tokens=1"), std::string::npos) << wrong["smallest"];
  EXPECT_EQ(wrong["text"].get<std::string>().find("moecheck repro"), std::string::npos);
  factor = 0;
  EXPECT_EQ(taken(moecheck_check(kLine, "mine", gate, &factor, 0))["reason"], "no kernel for this shape");
}

}  // namespace
