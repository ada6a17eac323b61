#pragma once
// Whether expert parallelism and two-batch overlap change a bit: the same two batches on any number of ranks, in any order of the
// stages, against one rank that computes them one after the other; and that one against the reference.
#include <optional>

#include "harness/ranks/two_batch_run.h"

namespace moecheck::harness::ranks {

// The residual stream of all tokens of a batch at the end, [T, H].
using BatchRows = std::array<std::vector<float>, 2>;

// How far the MoE blocks are from the reference: the largest |got - value| over its proven bound (reference/bounded.h). At most 1
// is right.
struct Judged {
  std::int64_t elements = 0;
  double worst = 0;
  std::string where;  // of the worst one: "batch B, layer 1, row 3, column 12"
  bool ok() const { return worst <= 1; }
};
Judged judge(const Layers& layers, const std::vector<MoeRecord>& records);

// What all others are compared with: one rank, one batch after the other, no fault.
struct Truth {
  bool shared = true;  // qwen3 has no shared experts
  BatchRows rows;
  std::string digest;
  Judged judged;
};
// `one` has one rank.
Truth make_truth(Communicator& one, Compute& compute, const Layers& layers, bool shared);
Truth make_truth(const Layers& layers, bool shared);  // on the CPU
bool has_shared(streams::TwoBatchPlan plan);

struct RankOutcome {
  int ranks = 1;
  TwoBatchOptions options;
  std::string digest;      // of all rows of both batches, "" where there are none
  std::string difference;  // from the truth: "batch A, token 3, column 7: 1.25 instead of 1.5", or ""
  std::string trace;       // trace_difference() of the first rank that has one
  int outstanding = 0;     // most of all ranks, as measured
  int planned = 0;         // streams::most_outstanding()
  std::string error;       // what a rank threw
  bool ok() const;
  std::string failure() const;  // in words, "" when ok
};

// Collective; what it returns is for rank 0, which alone needs `truth`. Throws what a rank throws.
RankOutcome run_on_ranks(Communicator& ranks, Compute& compute, const Layers& layers,
                         const RankWeights& weights, const TwoBatchOptions& options, const Truth* truth);
// The same on threads of this process and the CPU; an error is in the outcome.
RankOutcome run_on_threads(int ranks, const Layers& layers, const TwoBatchOptions& options,
                           const Truth& truth, int buffers = Communicator::kBuffers);

}  // namespace moecheck::harness::ranks
