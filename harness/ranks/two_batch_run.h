#pragma once
// Two batches through the layers in the order of harness/streams/two_batch.h, for real, with a trace of what ran.
#include <array>

#include "harness/ranks/moe_operations.h"

namespace moecheck::harness::ranks {

struct TwoBatchOptions {
  streams::TwoBatchPlan plan = streams::TwoBatchPlan::kDecode;
  int delta = 2;
  bool overlapped = true;  // else batch A from end to end, then batch B
  RankFault fault = RankFault::kNone;
  std::function<void(const MoeRecord&)> observe;
};

struct TraceEntry {
  int batch = 0, stage = 0;
  streams::StageOp operation;
  friend bool operator==(const TraceEntry&, const TraceEntry&) = default;
};

struct TwoBatchRun {
  std::vector<TraceEntry> trace;               // what ran, in the host's order
  std::array<std::vector<float>, 2> residual;  // of the rank's own tokens, [M, H]
  int most_outstanding = 0;                    // as the communicator counted
};

// Collective: every rank calls it with the same options. Throws CommunicatorError and StateError.
TwoBatchRun run_two_batches(Communicator& ranks, Compute& compute, const Layers& layers,
                            const RankWeights& weights, const TwoBatchOptions& options);

// How a trace differs from what it must be, or "". Of each batch alone: the operations of the layers one after the other, as
// without overlap. Of both together: the turns of the plan.
std::string trace_difference(const std::vector<TraceEntry>& trace, int layers,
                             const TwoBatchOptions& options);

}  // namespace moecheck::harness::ranks
