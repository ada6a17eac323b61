#include "harness/ranks/rank_study.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/ranks/thread_ranks.h"
#include "harness/tasks/sha256.h"
#include "harness/text.h"

namespace moecheck::harness::ranks {
namespace {

using streams::TwoBatchPlan;

std::string digest_of(const BatchRows& rows) {
  std::string bytes;
  for (const std::vector<float>& batch : rows)
    bytes.append(reinterpret_cast<const char*>(batch.data()), batch.size() * sizeof(float));
  return sha256_hex(bytes).substr(0, 16);
}

// The first bit that differs, or "".
std::string difference(const BatchRows& got, const BatchRows& expected, std::int64_t hidden) {
  for (std::size_t b = 0; b < 2; ++b) {
    const char letter = b == 0 ? 'A' : 'B';
    if (got[b].size() != expected[b].size())
      return fmt::format("batch {}: {} elements instead of {}", letter, got[b].size(), expected[b].size());
    for (std::size_t i = 0; i < got[b].size(); ++i)
      if (std::memcmp(&got[b][i], &expected[b][i], sizeof(float)) != 0) {
        const auto values = tell_apart({got[b][i], expected[b][i]});
        return fmt::format("batch {}, token {}, column {}: {} instead of {}", letter,
                           i / static_cast<std::size_t>(hidden), i % static_cast<std::size_t>(hidden),
                           values[0], values[1]);
      }
  }
  return "";
}

// `values` of all ranks, one rank after the other, on rank 0.
template <class T>
std::vector<T> gather(Communicator& ranks, Compute& compute, const std::string& name,
                      const std::vector<T>& values) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks.size()));
  counts[0] = static_cast<std::int64_t>(values.size());
  const Buffer mine = compute.allocate(values.size() * sizeof(T));
  compute.write(mine, values.data(), values.size() * sizeof(T));
  ranks.issue({name, counts, {{sizeof(T), mine}}});
  const Incoming in = ranks.wait(name);
  std::vector<T> all(static_cast<std::size_t>(in.rows()));
  compute.read(all.data(), in.columns[0].rows, all.size() * sizeof(T));
  return all;
}

}  // namespace

bool has_shared(TwoBatchPlan plan) { return plan != TwoBatchPlan::kQwen3Decode; }

Truth make_truth(Communicator& one, Compute& compute, const Layers& layers, bool shared) {
  TwoBatchOptions options;
  options.plan = shared ? TwoBatchPlan::kDecode : TwoBatchPlan::kQwen3Decode;
  options.overlapped = false;
  std::vector<MoeRecord> records;
  options.observe = [&](const MoeRecord& r) { records.push_back(r); };
  Truth truth;
  truth.shared = shared;
  truth.rows = run_two_batches(one, compute, layers, load_weights(layers, compute, 1, 0), options).residual;
  truth.digest = digest_of(truth.rows);
  truth.judged = judge(layers, records);
  return truth;
}

Truth make_truth(const Layers& layers, bool shared) {
  Truth truth;
  const RankErrors errors = run_thread_ranks(
      1, [&](Communicator& one) { truth = make_truth(one, *make_cpu_compute(), layers, shared); });
  if (errors.first >= 0) throw CommunicatorError(errors.messages[0]);
  return truth;
}

RankOutcome run_on_ranks(Communicator& ranks, Compute& compute, const Layers& layers,
                         const RankWeights& weights, const TwoBatchOptions& options, const Truth* truth) {
  const TwoBatchRun run = run_two_batches(ranks, compute, layers, weights, options);
  RankOutcome outcome;
  outcome.ranks = ranks.size();
  outcome.options = options;
  const int count = layers.options().layers;
  const std::string trace = trace_difference(run.trace, count, options);
  outcome.planned = streams::most_outstanding(streams::stages(options.plan, count), options.delta);
  if (!options.overlapped) outcome.planned = 1;
  const auto wrong = gather(ranks, compute, "traces", std::vector<std::int32_t>{trace.empty() ? 0 : 1});
  const auto most = gather(ranks, compute, "counts", std::vector<std::int32_t>{run.most_outstanding});
  BatchRows rows;
  for (std::size_t b = 0; b < 2; ++b)
    rows[b] = gather(ranks, compute, b == 0 ? "rows of A" : "rows of B", run.residual[b]);
  if (ranks.rank() != 0) return outcome;
  outcome.outstanding = *std::max_element(most.begin(), most.end());
  const auto first = std::find(wrong.begin(), wrong.end(), 1);
  if (first != wrong.end())
    outcome.trace = first == wrong.begin() ? trace : fmt::format("of rank {}", first - wrong.begin());
  outcome.digest = digest_of(rows);
  outcome.difference = difference(rows, truth->rows, layers.options().hidden);
  return outcome;
}

RankOutcome run_on_threads(int ranks, const Layers& layers, const TwoBatchOptions& options,
                           const Truth& truth, int buffers) {
  RankOutcome outcome;
  const RankErrors errors = run_thread_ranks(
      ranks,
      [&](Communicator& communicator) {
        const auto compute = make_cpu_compute();
        const RankWeights weights = load_weights(layers, *compute, ranks, communicator.rank());
        const RankOutcome mine = run_on_ranks(communicator, *compute, layers, weights, options, &truth);
        if (communicator.rank() == 0) outcome = mine;
      },
      {.buffers = buffers});
  if (errors.first < 0) return outcome;
  outcome.ranks = ranks;
  outcome.options = options;
  outcome.error = errors.messages[static_cast<std::size_t>(errors.first)];
  return outcome;
}

bool RankOutcome::ok() const { return failure().empty(); }

std::string RankOutcome::failure() const {
  if (!error.empty()) return error;
  if (!trace.empty()) return "trace " + trace;
  if (!difference.empty()) return difference;
  if (outstanding != planned)
    return fmt::format("at most {} transfers were under way at once instead of {}", outstanding, planned);
  return "";
}

}  // namespace moecheck::harness::ranks
