// The GLM-4 MoE block with its own operators on streams: the outcome of its single-stream form, bit for bit, in every order.
#include <gtest/gtest.h>

#include "harness/operator.h"
#include "harness/streams/moe_run.h"
#include "harness/streams/trial.h"

namespace moecheck::harness::streams {
namespace {

const char* const kCase = "moe_block tokens=9 experts=8 topk=2 hidden=64 intermediate=32";

struct BlockRun {
  MoeRun body;
  Glm4Moe dual, single;
  BlockRun(const std::string& line, const std::string& platform, const std::string& device,
           const std::string& variant = "sound")
      : body(moe_run_case(parse_case(line), require_platform(platform))) {
    BlockOptions o;
    o.variant = variant;
    o.platform = require_platform(platform);
    dual = glm4_options(o);
    dual.bytes = body.bytes(make_stream_device(device, 0)->kernels());
    dual.scratch = Scratch::kStream;
    single = dual;
    single.dual = false;
    single.scale_outside = scales_outside(ScaleGate::kSingle, o.platform);
  }
  Trial try_it(const TrialOptions& options) {
    return try_orders(glm4_moe(dual), glm4_moe(single), body, options);
  }
};

TEST(StreamMoeRun, EveryPlatformAndDeviceGivesTheSerialOutcome) {
  for (const std::string platform : {"cuda", "hip", "hip-aiter"})
    for (const std::string device : {"gpu-host", "gpu-host:w64", "cpu"})
      for (const bool capturing : {false, true}) {
        if (capturing && device == "cpu") continue;
        SCOPED_TRACE(platform + " " + device);
        BlockRun r(kCase, platform, device);
        r.dual.capturing = capturing;
        const Trial t = r.try_it({.device = device, .orders = 6, .delay = 500});
        EXPECT_EQ(t.wrong, 0) << t.what;
        EXPECT_TRUE(t.graph.empty());
        const auto on = make_stream_device(device, 0);
        const auto program = glm4_moe(r.single);
        const auto judged = r.body.judge(program, execute(program, *on, r.body, {.serial = true}));
        ASSERT_TRUE(judged);
        EXPECT_FALSE(is_failure(judged->result.verdict)) << judged->result.reason;
        EXPECT_EQ(judged->result.elements, 9 * 64);
      }
}

// The factor a second time, in the dual branch alone, where top-k or the reduce has it already (sglang's DeepSeek on HIP with aiter).
TEST(StreamMoeRun, DoubleScalingIsSeen) {
  BlockRun r(kCase, "hip-aiter", "gpu-host", "double_scaling");
  EXPECT_TRUE(check_streams(glm4_moe(r.dual)).report.races.empty());
  EXPECT_EQ(r.try_it({.orders = 3}).wrong, 3);
  for (const std::string platform : {"cuda", "hip"}) {  // the gate is right there
    BlockRun fine(kCase, platform, "gpu-host", "double_scaling");
    EXPECT_EQ(fine.try_it({.orders = 3}).wrong, 0) << platform;
  }
  BlockRun dropped(kCase, "hip", "gpu-host");
  dropped.dual.scale_outside = false;
  EXPECT_EQ(dropped.try_it({.orders = 3}).wrong, 3);
}

TEST(StreamMoeRun, JudgesTheOutcomeWithTheReference) {
  BlockRun r(kCase, "hip-aiter", "gpu-host");
  r.single.scale_outside = true;  // both forms are wrong alike
  const auto program = glm4_moe(r.single);
  const auto judged =
      r.body.judge(program, execute(program, *make_stream_device("gpu-host", 0), r.body, {.serial = true}));
  ASSERT_TRUE(judged);
  EXPECT_TRUE(is_failure(judged->result.verdict));
}

TEST(StreamMoeRun, SharedWorkspaceAndMissingWaitsAreSeen) {
  BlockRun r(kCase, "cuda", "gpu-host");
  r.dual.scratch = Scratch::kDevice;
  EXPECT_GT(r.try_it({.orders = 60, .stop_at_wrong = true}).wrong, 0);
  BlockRun join(kCase, "cuda", "gpu-host");
  join.dual.join = Join::kNone;
  EXPECT_GT(join.try_it({.orders = 4}).wrong, 0);
  BlockRun in_place(kCase, "cuda", "gpu-host");
  in_place.dual.input = Glm4Moe::Input::kInPlace;
  EXPECT_GT(in_place.try_it({.orders = 60, .stop_at_wrong = true}).wrong, 0);
}

TEST(StreamMoeRun, RefusesCasesWithoutADualStream) {
  for (const char* line : {"moe_block n_shared=0", "moe_block ep_size=2", "moe_block logits=bf16", "gating",
                           "moe_block shared_gate=1"})
    EXPECT_THROW(MoeRun{parse_case(line)}, UsageError) << line;
}

}  // namespace
}  // namespace moecheck::harness::streams
