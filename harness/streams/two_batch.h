#pragma once
// Two-batch overlap (sglang operations_strategy.py, operations.py): two halves of a batch take turns, stage by stage, so that one
// computes while the other's tokens travel.
//
// A layer is a list of operations with yields. The lists of all layers are joined first and then cut at the yields: a list without
// a yield at its end merges its last stage with the first of the next layer. With n stages and delta d, A runs d stages ahead:
//
//   for d: A.next()    for n-d: A.next(), B.next()    for d: B.next()
//
//   plan           delta   stages of L layers
//   prefill        0       2L+1
//   decode         2       5L+1     since sglang#6711: output and post in a stage of their own with the next layer's first ones
//   decode_before  2       5L       before it
//   qwen3_decode   2       5L       no shared experts, the form before #6711
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "reference/stream_program.h"

namespace moecheck::harness::streams {

enum class TwoBatchPlan : std::uint8_t { kPrefill, kDecode, kDecodeBefore, kQwen3Decode };
std::string_view name(TwoBatchPlan plan);
int default_delta(TwoBatchPlan plan);

struct StageOp {
  int layer = 0;
  std::string name;  // "dispatch_a"
  friend bool operator==(const StageOp&, const StageOp&) = default;
};
using Stage = std::vector<StageOp>;

// Cuts at "|". Throws UsageError for an empty stage: two yields in a row, or one in front.
std::vector<Stage> cut_stages(const std::vector<StageOp>& operations);
std::vector<Stage> stages(TwoBatchPlan plan, int layers);

// The host's order: batch 0 or 1, with its stage. Throws UsageError where delta is not within 0..stages.
struct Turn {
  int batch = 0, stage = 0;
  friend bool operator==(const Turn&, const Turn&) = default;
};
std::vector<Turn> turns(int stages, int delta);

// The most transfers (dispatch or combine) that are issued and not yet waited for at any time. DeepEP's low-latency mode has two
// buffers: more than 2 hang.
int most_outstanding(const std::vector<Stage>& stages, int delta);
// Transfers of a batch without any operation of the other one between issue and wait: what does not overlap.
int uncovered_transfers(const std::vector<Stage>& stages, int delta);

// The order as a program: computing on one stream, transfers on another, joined by events. Operations are named A0.core: batch,
// layer, operation.
reference::StreamProgram two_batch_program(TwoBatchPlan plan, int layers, int delta, bool overlapped = true);

}  // namespace moecheck::harness::streams
