#include "harness/ranks/two_batch_run.h"

#include <fmt/format.h>

#include <algorithm>

namespace moecheck::harness::ranks {
namespace {

using streams::Stage;
using streams::StageOp;
using streams::Turn;

std::string text(const TraceEntry& e) {
  return fmt::format("{}{}.{} in stage {}", e.batch == 0 ? 'A' : 'B', e.operation.layer, e.operation.name,
                     e.stage);
}

std::vector<Turn> order_of(int stages, const TwoBatchOptions& options) {
  std::vector<Turn> order = streams::turns(stages, options.delta);
  if (!options.overlapped)
    std::stable_sort(order.begin(), order.end(),
                     [](const Turn& a, const Turn& b) { return a.batch < b.batch; });
  return order;
}

// RankFault::kNextLayerTooEarly: the operations of the next layer's first stage come before this layer's output.
void next_layer_first(std::vector<Stage>& stages) {
  for (std::size_t s = 0; s + 1 < stages.size(); ++s) {
    Stage& stage = stages[s];
    const auto output =
        std::find_if(stage.begin(), stage.end(), [](const StageOp& o) { return o.name == "output"; });
    if (output == stage.end()) continue;
    if (stage.back().layer == output->layer) {
      stage.insert(output, stages[s + 1].begin(), stages[s + 1].end());
      stages.erase(stages.begin() + static_cast<std::ptrdiff_t>(s) + 1);
    } else {
      std::rotate(output, output + 2, stage.end());
    }
  }
}

// The first place where two lists differ, or "".
std::string difference(const std::vector<TraceEntry>& got, const std::vector<TraceEntry>& expected,
                       std::string_view what) {
  for (std::size_t i = 0; i < std::max(got.size(), expected.size()); ++i) {
    const std::string a = i < got.size() ? text(got[i]) : "nothing",
                      b = i < expected.size() ? text(expected[i]) : "nothing";
    if (a != b) return fmt::format("{}: operation {} is {} instead of {}", what, i, a, b);
  }
  return "";
}

}  // namespace

TwoBatchRun run_two_batches(Communicator& ranks, Compute& compute, const Layers& layers,
                            const RankWeights& weights, const TwoBatchOptions& options) {
  RankContext context{ranks, compute, layers, weights, options.fault, options.observe};
  BatchOperations batches[] = {{context, 0}, {context, 1}};
  std::vector<Stage> stages = streams::stages(options.plan, layers.options().layers);
  if (options.fault == RankFault::kNextLayerTooEarly) next_layer_first(stages);
  const bool other_way =
      options.fault == RankFault::kLastRankOtherOrder && ranks.size() > 1 && ranks.rank() == ranks.size() - 1;
  TwoBatchRun run;
  ranks.start_count();
  for (const Turn& turn : order_of(static_cast<int>(stages.size()), options)) {
    const int batch = other_way ? 1 - turn.batch : turn.batch;
    for (const StageOp& operation : stages[static_cast<std::size_t>(turn.stage)]) {
      batches[batch].run(operation);
      run.trace.push_back({batch, turn.stage, operation});
    }
  }
  run.most_outstanding = ranks.most_outstanding();
  for (std::size_t b = 0; b < 2; ++b) run.residual[b] = batches[b].finish();
  return run;
}

std::string trace_difference(const std::vector<TraceEntry>& trace, int layers,
                             const TwoBatchOptions& options) {
  const std::vector<Stage> stages = streams::stages(options.plan, layers);
  std::vector<TraceEntry> expected;
  for (const Turn& turn : order_of(static_cast<int>(stages.size()), options))
    for (const StageOp& operation : stages[static_cast<std::size_t>(turn.stage)])
      expected.push_back({turn.batch, turn.stage, operation});
  for (int batch = 0; batch < 2; ++batch) {
    std::vector<TraceEntry> alone, sequential;
    std::copy_if(trace.begin(), trace.end(), std::back_inserter(alone),
                 [&](const TraceEntry& e) { return e.batch == batch; });
    for (std::size_t s = 0; s < stages.size(); ++s)
      for (const StageOp& operation : stages[s])
        sequential.push_back({batch, static_cast<int>(s), operation});
    const std::string d = difference(alone, sequential, batch == 0 ? "batch A" : "batch B");
    if (!d.empty()) return d;
  }
  return difference(trace, expected, "both batches");
}

}  // namespace moecheck::harness::ranks
