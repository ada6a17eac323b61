// Policies and gates of the second stream: the decision tables hold row by row.
#include <gtest/gtest.h>

#include <map>

#include "harness/case.h"
#include "harness/streams/blocks.h"
#include "harness/streams/text.h"
#include "reference/stream_checker.h"

namespace moecheck::harness::streams {
namespace {

using namespace reference;

TEST(StreamPolicy, TheTableRowByRow) {
  struct Row {
    DualMode mode;
    bool capturing, at_most, above;  // dual while capturing; not capturing with n <= and > threshold
  };
  const Row table[] = {{DualMode::kAuto, true, true, false},
                       {DualMode::kCapture, true, false, false},
                       {DualMode::kAlways, true, true, true},
                       {DualMode::kNever, false, false, false}};
  for (const Row& r : table)
    for (const std::int64_t threshold : {1, 100, 1024})
      for (const std::int64_t n : {std::int64_t{0}, std::int64_t{1}, threshold - 1, threshold, threshold + 1})
        for (const bool capturing : {false, true})
          for (const bool alt : {false, true})
            for (const bool fused : {false, true})
              for (const bool a2a : {false, true}) {
                const bool may = alt && !fused && !a2a && n > 0;
                const bool dual = capturing ? r.capturing : n <= threshold ? r.at_most : r.above;
                const DualDecision d =
                    decide({DualRule::kGlm4, r.mode, threshold}, {capturing, n, alt, fused, a2a});
                EXPECT_EQ(d.dual, may && dual)
                    << name(r.mode) << " n=" << n << " threshold=" << threshold << " " << d.why;
                EXPECT_FALSE(d.why.empty());
              }
}

TEST(StreamPolicy, OtherRules) {
  struct Row {
    DualRule rule;
    std::int64_t tokens;
    bool eager, capturing;
  };
  for (const Row& r : {Row{DualRule::kDeepseekBefore, 1024, true, true},
                       {DualRule::kDeepseekBefore, 1025, false, false},
                       {DualRule::kDeepseek, 1, false, true},
                       {DualRule::kDeepseek, 100000, false, true},
                       {DualRule::kDeepseek, 0, false, false},
                       {DualRule::kQwen2Moe, 1024, false, true},
                       {DualRule::kQwen2Moe, 1025, false, false},
                       {DualRule::kVllm, 256, true, true},
                       {DualRule::kVllm, 257, false, false}})
    for (const bool capturing : {false, true})
      EXPECT_EQ(decide({.rule = r.rule}, {.capturing = capturing, .tokens = r.tokens}).dual,
                capturing ? r.capturing : r.eager)
          << name(r.rule) << " " << r.tokens << " " << capturing;
}

TEST(StreamPolicy, FromTheEnvironment) {
  std::map<std::string, std::string> env;
  const auto get = [&](const char* n) { return env.contains(n) ? env[n].c_str() : nullptr; };
  EXPECT_EQ(glm4_policy(get).mode, DualMode::kAuto);
  EXPECT_EQ(glm4_policy(get).threshold, 1024);
  env = {{"SGLANG_GLM4_MOE_DUAL_STREAM", "capture"}, {"SGLANG_GLM4_MOE_DUAL_STREAM_THRESHOLD", "7"}};
  EXPECT_EQ(glm4_policy(get).mode, DualMode::kCapture);
  EXPECT_EQ(glm4_policy(get).threshold, 7);
  for (const char* const bad : {"", "x", "-1", "1.5", "12 ", "99999999999999999999"}) {
    env["SGLANG_GLM4_MOE_DUAL_STREAM_THRESHOLD"] = bad;
    EXPECT_THROW(glm4_policy(get), UsageError) << bad;
  }
  env = {{"SGLANG_GLM4_MOE_DUAL_STREAM", "alwys"}};
  try {
    glm4_policy(get);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("did you mean always"), std::string::npos) << e.what();
  }
}

// Main's dual branch scales twice with aiter; single and fixed scale once everywhere.
TEST(StreamPolicy, TheFactorIsAppliedOnce) {
  const Platform cuda{true, false, false}, hip{false, true, false}, aiter{false, true, true};
  for (const Platform& p : {cuda, hip, aiter}) {
    EXPECT_EQ(times_scaled(ScaleGate::kSingle, p), 1);
    EXPECT_EQ(times_scaled(ScaleGate::kDualFixed, p), 1);
  }
  EXPECT_EQ(times_scaled(ScaleGate::kDualMain, cuda), 1);
  EXPECT_EQ(times_scaled(ScaleGate::kDualMain, hip), 1);
  EXPECT_EQ(times_scaled(ScaleGate::kDualMain, aiter), 2);
}

TEST(StreamPolicy, ADroppedPlatformLosesTheOverlap) {
  const Platform hip{false, true, true};
  EXPECT_TRUE(makes_alt_stream(AltStreamGate::kCudaAndHip, hip));
  EXPECT_FALSE(makes_alt_stream(AltStreamGate::kCuda, hip));
  DualState s{.capturing = true};
  s.alt_stream = makes_alt_stream(AltStreamGate::kCuda, hip);
  BlockOptions o;
  o.state = s;
  o.platform = hip;
  EXPECT_EQ(check_streams(make_block(require_block("glm4_moe"), o)).report.overlap_count, 0);
  o.state.alt_stream = makes_alt_stream(AltStreamGate::kCudaAndHip, hip);
  EXPECT_GT(check_streams(make_block(require_block("glm4_moe"), o)).report.overlap_count, 0);
}

}  // namespace
}  // namespace moecheck::harness::streams
