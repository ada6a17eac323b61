#include "harness/streams/trial.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "harness/random.h"
#include "harness/streams/text.h"

namespace moecheck::harness::streams {
namespace {

using reference::StreamProgram;
using reference::WaitUse;

// What each step is delayed by in an order.
std::vector<int> delays(const StreamProgram& p, std::uint64_t order, int longest,
                        const std::vector<int>& races) {
  std::vector<int> all(p.steps.size());
  if (order == 0 || longest <= 0) return all;
  if (order <= races.size()) {
    all[static_cast<std::size_t>(races[static_cast<std::size_t>(order - 1)])] = longest;
    return all;
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::uint64_t bits = mix64(order * 0x9E3779B97F4A7C15u + i);
    if (bits % 3 == 0) all[i] = 1 + static_cast<int>((bits >> 8) % static_cast<std::uint64_t>(longest));
  }
  return all;
}

// `expected` in the numbers of `program`.
Outcome renumbered(const StreamProgram& program, const StreamProgram& expected, const Outcome& outcome) {
  Outcome r;
  r.digests.resize(program.steps.size());
  for (std::size_t i = 0; i < program.steps.size(); ++i) {
    const int same = is_operation(program.steps[i]) ? expected.find(program.steps[i].name) : -1;
    if (same >= 0) r.digests[i] = outcome.digests[static_cast<std::size_t>(same)];
  }
  for (const auto& [buffer, bytes] : outcome.bytes)
    for (std::size_t b = 0; b < program.buffers.size(); ++b)
      if (program.buffers[b].name == expected.buffers[static_cast<std::size_t>(buffer)].name)
        r.bytes[static_cast<int>(b)] = bytes;
  return r;
}

std::string hazards_text(const StreamProgram& p, const reference::StreamReport& r) {
  if (!r.capture.empty()) return fmt::format("capture {}", r.capture.front().code);
  if (!r.lifetime.empty())
    return fmt::format("{} {}", p.buffers[static_cast<std::size_t>(r.lifetime.front().buffer)].name,
                       name(r.lifetime.front().fault));
  return "";
}

}  // namespace

Trial try_orders(const StreamProgram& program, const StreamProgram& expected, OperationBody& body,
                 const TrialOptions& options, const std::vector<int>& races) {
  const auto at = [&](std::uint64_t order) { return make_stream_device(options.device, order); };
  Outcome serial = execute(expected, *at(0), body, {.serial = true});
  if (!serial.error.empty()) throw gpu::DeviceError("in the host's order: " + serial.error);
  serial = renumbered(program, expected, serial);
  Trial trial;
  for (int n = 0; n < options.orders; ++n) {
    const std::uint64_t order = options.first_order + static_cast<std::uint64_t>(n);
    const auto device = at(order);
    ExecuteOptions execution;
    if (device->parallel()) execution.delays = delays(program, order, options.delay, races);
    const Outcome got = execute(program, *device, body, execution);
    const std::optional<std::string> wrong = got.error.empty() ? difference(program, serial, got) : got.error;
    if (n == 0) {
      trial.graph = got.graph;
      trial.graph_nodes = got.graph_nodes;
      trial.graph_edges = got.graph_edges;
    }
    ++trial.orders;
    if (!wrong) continue;
    if (trial.wrong++ > 0) continue;
    trial.first_wrong = order;
    trial.what = *wrong;
    if (options.stop_at_wrong) break;
  }
  return trial;
}

Trial try_orders(const StreamProgram& program, const TrialOptions& options) {
  require_executable(program);
  const reference::CheckedStreams checked = check_streams(program, {.waits = false});
  std::vector<int> races;
  for (const reference::Race& r : checked.report.races) races.push_back(checked.order.node(r.first).step);
  return try_orders(program, program, probe(), options, races);
}

bool EdgeTrial::agrees() const {
  const bool needed = verdict.use == WaitUse::kNeeded || verdict.use == WaitUse::kNeededByCapture;
  return needed == (trial.wrong > 0);
}

std::vector<EdgeTrial> try_edges(const Block& block, bool capturing, const TrialOptions& options) {
  std::vector<EdgeTrial> all;
  for (const BlockVariant& v : block.variants) {
    const std::string verdict = v.verdict;
    if (verdict != "clean" && verdict != "no overlap") continue;
    BlockOptions o;
    o.variant = v.name;
    o.state.capturing = capturing;
    const StreamProgram p = make_block(block, o);
    const reference::CheckedStreams checked = check_streams(p);
    const std::vector<std::string> labels = step_labels(p);
    for (const reference::WaitVerdict& w : checked.report.waits) {
      const StreamProgram without = reference::without_step(p, w.step);
      const reference::CheckedStreams then = check_streams(without, {.waits = false});
      EdgeTrial e;
      e.block = p.name;
      e.wait = labels[static_cast<std::size_t>(w.step)];
      e.verdict = w;
      e.witness = hazards_text(without, then.report);
      std::vector<int> races;
      for (const reference::Race& r : then.report.races) races.push_back(then.order.node(r.first).step);
      if (e.witness.empty() && !then.report.races.empty()) {
        const reference::Race& r = then.report.races.front();
        e.witness = fmt::format("{} {}: {}, {}", then.memory.name(r.memory), hazards(r),
                                without.steps[static_cast<std::size_t>(then.order.node(r.first).step)].name,
                                without.steps[static_cast<std::size_t>(then.order.node(r.second).step)].name);
      }
      e.trial = try_orders(without, p, probe(), options, races);
      all.push_back(std::move(e));
    }
  }
  return all;
}

}  // namespace moecheck::harness::streams
