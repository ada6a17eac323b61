#pragma once
// A program executed in many orders, against what it gives in the host's own.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harness/streams/blocks.h"
#include "harness/streams/execution.h"
#include "reference/stream_checker.h"

namespace moecheck::harness::streams {

struct TrialOptions {
  std::string device = "gpu-host";  // of make_stream_device
  int orders = 50;                  // numbers 0, 1, ...; 0 is as it comes
  std::uint64_t first_order = 0;
  bool stop_at_wrong = false;  // the first wrong outcome is the last order
  int delay = 300;             // microseconds, the longest put before an operation where orders are delays
};

struct Trial {
  int orders = 0, wrong = 0;           // executed; with another outcome than the serial one, or an error
  std::uint64_t first_wrong = 0;       // its number
  std::string what;                    // of the first wrong one: what differs, or the device's error
  std::vector<GraphDifference> graph;  // of the first capture
  int graph_nodes = 0, graph_edges = 0;
};

// Orders of `program` against the serial outcome of `expected`, usually the same program: buffers are compared by name. On devices the
// first orders delay the first operations of `races` one at a time, later ones any by their number.
// Throws UsageError and gpu::DeviceLost as execute() does.
Trial try_orders(const reference::StreamProgram& program, const reference::StreamProgram& expected,
                 OperationBody& body, const TrialOptions& options, const std::vector<int>& races = {});
Trial try_orders(const reference::StreamProgram& program, const TrialOptions& options);  // probes

// ---- Each wait of a program taken away

struct EdgeTrial {
  std::string block, wait;         // "glm4_moe capturing", "alt.wait(cur)"
  reference::WaitVerdict verdict;  // of the checker
  std::string witness;             // "race h RAW: P, G", or ""
  Trial trial;                     // without the wait
  // The execution agrees: a wrong outcome in some order where the wait is needed, in none where it is not.
  bool agrees() const;
};

// Of the variants of a block that are clean or only lack overlap.
std::vector<EdgeTrial> try_edges(const Block& block, bool capturing, const TrialOptions& options);

}  // namespace moecheck::harness::streams
