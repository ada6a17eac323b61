// What a host did, recorded as a program: it has the races of the program that was meant, and names what was not declared.
#include <gtest/gtest.h>

#include <set>

#include "harness/streams/blocks.h"
#include "harness/streams/execution.h"
#include "harness/streams/recorder.h"
#include "reference/stream_checker.h"

namespace moecheck::harness::streams {
namespace {

using namespace reference;

StreamProgram recorded(const StreamProgram& p) {
  const auto device = make_stream_device("gpu-host", 0);
  Recorder recorder(device->runtime());
  ExecuteOptions o;
  o.through = &recorder;
  const auto spans = [](const std::vector<BoundRange>& all) {
    std::vector<Span> list;
    for (const BoundRange& r : all) list.push_back({r.data, r.bytes});
    return list;
  };
  o.before = [&](const BoundOperation& op) {
    std::vector<Span> reads = spans(op.reads), writes = spans(op.writes);
    for (const Span& s : spans(op.scratch)) reads.push_back(s), writes.push_back(s);
    recorder.operation(op.operation().name, op.stream, reads, writes);
  };
  o.after = [&](const BoundOperation&) { recorder.done(); };
  const Outcome outcome = execute(p, *device, probe(), o);
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(recorder.undeclared(), 0);
  return recorder.program();
}

std::set<std::string> races(const StreamProgram& p) {
  EXPECT_FALSE(refusal(p)) << *refusal(p);
  const CheckedStreams c = check_streams(p, {.races = 10000, .waits = false});
  std::set<std::string> all;
  for (const Race& r : c.report.races)
    all.insert(p.steps[static_cast<std::size_t>(c.order.node(r.first).step)].name + " " +
               p.steps[static_cast<std::size_t>(c.order.node(r.second).step)].name + " " + hazards(r));
  return all;
}

TEST(Recorder, SeesTheRacesOfWhatWasMeant) {
  int racy = 0, programs = 0;
  for (const Block& block : blocks())
    for (const BlockVariant& v : block.variants)
      for (const bool capturing : {false, true}) {
        const std::string verdict = v.verdict;
        if (verdict.starts_with("capture") || verdict.starts_with("lifetime")) continue;
        if (capturing && block.name == std::string("two_batch")) continue;
        BlockOptions o;
        o.variant = v.name;
        o.state.capturing = capturing;
        const StreamProgram p = make_block(block, o);
        if (!capture_facts(p).errors.empty()) continue;
        SCOPED_TRACE(p.name);
        const std::set<std::string> meant = races(p);
        EXPECT_EQ(races(recorded(p)), meant);
        racy += meant.empty() ? 0 : 1;
        ++programs;
      }
  EXPECT_GT(programs, 40);
  EXPECT_GT(racy, 10);
}

TEST(Recorder, NamesAKernelOnAnotherStreamAndOneThatNobodyDeclared) {
  const auto device = make_stream_device("gpu-host", 0);
  Recorder recorder(device->runtime());
  const gpu::Stream a = recorder.create_stream(), b = recorder.create_stream();
  gpu::Memory x(recorder, 64), digest(recorder, 8);
  gpu::ProbeRanges ranges;
  ranges.data[0] = static_cast<unsigned char*>(x.data());
  ranges.bytes[0] = 64;
  ranges.count = 1;
  auto* const d = static_cast<std::uint64_t*>(digest.data());
  const std::vector<Span> whole{{x.data(), 64}};
  recorder.operation("write", a, {}, whole);
  device->kernels().emit(ranges, d, 1, a);
  recorder.done();
  recorder.operation("read", a, whole, {});
  device->kernels().absorb(ranges, d, a);
  device->kernels().absorb(ranges, d, b);  // on the wrong stream
  recorder.done();
  device->kernels().absorb(ranges, d, b);
  recorder.wait_all();
  EXPECT_EQ(recorder.undeclared(), 1);
  const StreamProgram& p = recorder.program();
  const int wrong = p.find("read#2");
  ASSERT_GE(wrong, 0);
  EXPECT_EQ(p.steps[static_cast<std::size_t>(wrong)].stream, 1);
  EXPECT_EQ(races(p), std::set<std::string>{"write read#2 RAW"});
}

TEST(Recorder, ReleaseWhileInUseIsALifetimeError) {
  const auto device = make_stream_device("gpu-host", 0);
  Recorder recorder(device->runtime());
  const gpu::Stream s = recorder.create_stream();
  {
    const gpu::Memory x(recorder, 16), y(recorder, 16);
    recorder.copy(y.data(), x.data(), 16, s);
    recorder.wait(s);
    recorder.fill(x.data(), 1, 16, s);
    recorder.wait(s);
  }
  EXPECT_TRUE(check_streams(recorder.program()).report.lifetime.empty());
  {
    const gpu::Memory x(recorder, 16);
    recorder.fill(x.data(), 1, 16, s);
    recorder.wait(s);
    recorder.operation("late", s, {{x.data(), 16}}, {});  // declared; the device is spared
    recorder.done();
  }
  const CheckedStreams c = check_streams(recorder.program());
  ASSERT_EQ(c.report.lifetime.size(), 1u);
  EXPECT_EQ(c.report.lifetime[0].fault, LifetimeFault::kFreedWhileUsed);
}

}  // namespace
}  // namespace moecheck::harness::streams
