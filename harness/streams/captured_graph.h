#pragma once
// What a capture was meant to order against what the driver's graph orders.
#include <vector>

#include "harness/streams/execution.h"
#include "optimized/gpu/runtime.h"
#include "reference/stream_program.h"

namespace moecheck::harness::streams {

// An operation that was captured, and Runtime::captured_tail of its stream behind it.
struct CapturedOperation {
  int step = 0;
  std::vector<const void*> tail;
};

// The nodes of an operation are those up to its tail that no earlier operation has. Two operations are in order in a graph where
// paths lead from each node of the first to each node of the second. Operations without a node are left out.
std::vector<GraphDifference> compare_graph(const reference::StreamProgram& program,
                                           const std::vector<CapturedOperation>& operations,
                                           const std::vector<gpu::GraphNode>& nodes);

}  // namespace moecheck::harness::streams
