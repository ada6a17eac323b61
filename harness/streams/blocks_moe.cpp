// The MoE blocks of blocks.h.
#include <fmt/format.h>

#include "harness/fault.h"
#include "harness/streams/blocks.h"

namespace moecheck::harness::streams {
namespace {

using reference::StreamProgram;

constexpr std::int64_t kRow =
    10240;  // bytes of a token: hidden 5120 in bf16; sizes only have to differ from views

void fork(StreamProgram& p, int alt, int cur) { p.wait_stream(alt, cur); }

}  // namespace

StreamProgram glm4_moe(const Glm4Moe& o) {
  using Input = Glm4Moe::Input;
  using Output = Glm4Moe::Output;
  StreamProgram p;
  const int cur = p.stream("cur"), alt = p.stream("alt"), main = cur, side = o.dual ? alt : cur;
  const bool freed = o.output != Output::kKept;
  const std::int64_t row = o.bytes.hidden;
  const int x = p.buffer("x", row), h = p.buffer("h", row), shared = p.buffer("s", row),
            logits = p.buffer("router_logits", o.bytes.logits), ids = p.buffer("topk", o.bytes.topk),
            wg = p.buffer("w_gate", o.bytes.w_gate), ws = p.buffer("w_shared", o.bytes.w_shared),
            we = p.buffer("w_experts", o.bytes.w_experts);
  // Experts in place: their output is the storage of h.
  const bool in_place = o.input == Input::kInPlace || o.input == Input::kInPlaceClone;
  const int y = in_place ? p.view("y", h, 0, row) : p.buffer("y", row, freed ? side : -1);
  const bool clones = o.input == Input::kInPlaceClone || o.input == Input::kLateClone;
  const int clone = clones ? p.buffer("h_clone", row) : h;
  const int scratch = o.scratch == Scratch::kNone ? -1
                                                  : p.add_scratch("workspace",
                                                                  o.scratch == Scratch::kStream &&
                                                                      !HARNESS_FAULT(kBlocksScratchPerDevice),
                                                                  o.bytes.workspace);
  const auto use_scratch = [&](int step) {
    if (scratch >= 0) p.steps[static_cast<std::size_t>(step)].scratch = {scratch};
  };

  int outside = -1;
  if (o.outside_event || (HARNESS_FAULT(kBlocksWaitsOutsideCapture) && o.capturing)) {
    p.kernel("prefetch", alt, {}, {we});
    outside = p.record(alt);
  }
  const int graph = o.capturing ? p.begin_capture(cur, "block") : -1;
  if (outside >= 0) p.wait(cur, outside);
  p.kernel("P", cur, {x}, {h});
  if (o.input == Input::kInPlaceClone)
    p.kernel("clone", HARNESS_FAULT(kBlocksCloneOnSideStream) ? alt : cur, {h}, {clone});
  if (o.dual && o.fork == Fork::kBefore && !HARNESS_FAULT(kBlocksForkMissing)) fork(p, alt, cur);
  if (o.input == Input::kLateClone) p.kernel("clone", side, {h}, {clone});
  const int s = p.kernel("S", main, {clone, ws}, {shared}, 3);
  use_scratch(s);
  if (o.dual && o.fork == Fork::kLate) fork(p, alt, cur);
  if (freed) p.alloc(y);
  use_scratch(p.kernel("G", side, {h, wg}, {logits}));
  p.kernel("T", side, {h, logits, wg}, {ids});
  const int e = p.kernel("E", side, {h, ids, we}, {y}, 4);
  use_scratch(e);
  if (o.scale_outside) p.kernel("M", side, {y}, {y});
  if (o.dual && o.join != Join::kNone && !HARNESS_FAULT(kBlocksJoinMissing)) p.wait_stream(cur, alt);
  p.kernel("A", cur, {y, shared}, {y});
  const int out = freed ? p.buffer("out", row) : y;
  p.kernel("R", cur, {y}, {out});
  if (freed) {
    // The host drops y when the block returns. The next work of the side stream gets its bytes, and no new fork orders it.
    if (o.output == Output::kRecorded)
      p.record_stream(y, HARNESS_FAULT(kBlocksRecordWrongStream) ? side : cur);
    if (o.output == Output::kRecordedWrong) p.record_stream(y, side);
    p.free(y);
    const int next = p.buffer("y_next", row, side);
    p.alloc(next);
    p.kernel("E_next", side, {we}, {next});
    if (o.dual) p.wait_stream(cur, alt);
  }
  p.kernel("N", cur, {out}, {h});
  if (graph >= 0) {
    p.end_capture(cur);
    p.launch_graph(graph, cur);
  }
  if (o.declares_overlap && !in_place) p.overlaps.emplace_back(s, e);
  return p;
}

StreamProgram deepseek_moe(DeepseekForm form, bool capturing, bool scale_outside) {
  StreamProgram p;
  const int cur = p.stream("cur"), alt = p.stream("alt");
  const bool alt_first = form == DeepseekForm::kAltFirst || form == DeepseekForm::kAltFirstKept;
  const bool disposed = form == DeepseekForm::kAltFirst ||
                        (HARNESS_FAULT(kBlocksDisposedTooEarly) && form == DeepseekForm::kAltFirstKept);
  const int x = p.buffer("x", kRow), h = p.buffer("h", kRow, disposed ? cur : -1),
            permuted = p.buffer("permuted", kRow), shared = p.buffer("s", kRow),
            logits = p.buffer("router_logits", 512), ids = p.buffer("topk", 64), y = p.buffer("y", kRow);
  const int graph = capturing ? p.begin_capture(cur, "block") : -1;
  if (disposed) p.alloc(h);
  p.kernel("P", cur, {x}, {h});
  if (form == DeepseekForm::kGateFirst) p.kernel("G", cur, {h}, {logits});
  fork(p, alt, cur);
  const int routed = alt_first ? cur : alt, side = alt_first ? alt : cur;
  int s = -1;
  const auto shared_experts = [&] { s = p.kernel("S", side, {h}, {shared}, 3); };
  const auto routed_experts = [&] {
    if (form != DeepseekForm::kGateFirst) p.kernel("G", routed, {h}, {logits});
    p.kernel("T", routed, {h, logits}, {ids});
    p.kernel("permute", routed, {h, ids}, {permuted});
    if (disposed) p.free(h);  // dispose_tensor: set_() to an empty storage, by the host, while it launches
    const int e = p.kernel("E", routed, {permuted, ids}, {y}, 4);
    if (scale_outside) p.kernel("M", routed, {y}, {y});
    return e;
  };
  if (!disposed) shared_experts();
  const int e = routed_experts();
  if (disposed) shared_experts();
  p.wait_stream(cur, alt);
  p.kernel("A", cur, {y, shared}, {y});
  const int next = disposed ? p.buffer("h_next", kRow) : h;
  p.kernel("N", cur, {y}, {next});
  if (graph >= 0) {
    p.end_capture(cur);
    p.launch_graph(graph, cur);
  }
  p.overlaps.emplace_back(s, e);
  return p;
}

}  // namespace moecheck::harness::streams
