#pragma once
// A stream program executed: its memory, streams, events, graphs and operations on a real device, so that a missing wait shows up
// as a wrong answer.
//
//   const auto device = make_stream_device("gpu-host", order);
//   const Outcome serial = execute(program, *device, probe(), {.serial = true});
//   const Outcome got = execute(program, *device, probe());
//   difference(program, serial, got)    // nothing, or "y differs from byte 17 on"
//
// What an operation does is a body's choice: probes (optimized/gpu/probe.h) for any program, an MoE block's own kernels for
// its program (moe_run.h).
//
// Memory is as the program says. A buffer of a pool gets a block that was freed to it, the last one first, or new memory; a graph's
// capture has pools of its own; record_stream for another stream than the pool's keeps the block to the end. A buffer that is freed
// without a pool, and what an operation of a dead buffer gets, holds 0xFF.
//
// Executed are programs of non-blocking streams with at most 2 GiB of buffers; `after` names earlier operations. Others are
// refused (UsageError). An error of the device, of a capture for example, is the outcome's `error`.
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/streams/device.h"
#include "reference/stream_program.h"

namespace moecheck::harness::streams {

struct BoundRange {
  std::byte* data = nullptr;
  std::int64_t bytes = 0;
};

// An operation whose turn it is.
struct BoundOperation {
  const reference::StreamProgram& program;
  int step = 0;
  gpu::Stream stream = nullptr;
  std::vector<BoundRange> reads, writes, scratch;  // as the step lists them
  std::uint64_t* digest = nullptr;  // 8 bytes on the device, this operation's own; part of the outcome
  const reference::StreamStep& operation() const { return program.steps[static_cast<std::size_t>(step)]; }
};

// Puts the kernels of operations on their streams.
class OperationBody {
 public:
  virtual ~OperationBody() = default;
  // What a buffer holds before the first step, at most its bytes; the rest, or all of it where this is empty, is made of its name.
  virtual std::span<const std::byte> initial(const reference::ProgramBuffer&) const { return {}; }
  virtual void launch(const BoundOperation& operation, const StreamKernels& kernels,
                      gpu::Runtime& runtime) = 0;
};

// Absorbs what is read, emits what is written; scratch is written first and read again in a second kernel.
OperationBody& probe();

struct ExecuteOptions {
  bool serial = false;  // all operations on one stream in the host's order, each buffer in memory of its own
  std::vector<int> delays = {};     // microseconds before each step; empty: none
  gpu::Runtime* through = nullptr;  // calls go through this runtime, which passes them on: a Recorder
  std::function<void(const BoundOperation&)> before = {}, after = {};  // around an operation's launches
  bool time = false;  // Outcome::begin and end; and milliseconds
  int repeat = 1;     // of what is timed: the program, or its launches of graphs, this many times in a row
};

// How what was captured differs from what the program orders.
struct GraphDifference {
  bool lost = false;  // an order of the program that the graph lacks; else one that it has besides
  int first = 0,
      second =
          0;  // steps; both -1: a node that is before nothing, so that an edge within an operation is lost
};

struct Outcome {
  std::string error;  // "" or what the device refused; the rest is then empty
  std::map<int, std::vector<std::byte>>
      bytes;                           // of each buffer that is no view, is written and lives at the end
  std::vector<std::uint64_t> digests;  // of each step
  std::vector<GraphDifference> graph;
  int graph_nodes = 0, graph_edges = 0;  // of all graphs
  std::vector<double> begin,
      end;  // milliseconds on the device's clock, of each step's last run; of what is captured: 0
  double milliseconds = 0;  // from the first step to the end of all streams' work
};

// Throws UsageError for what is refused, and for a program that means nothing (reference::refusal).
void require_executable(const reference::StreamProgram& program);

Outcome execute(const reference::StreamProgram& program, StreamDevice& device, OperationBody& body,
                const ExecuteOptions& options = {});

// What is not as it was, in words: nothing where all bytes and digests are equal.
std::optional<std::string> difference(const reference::StreamProgram& program, const Outcome& expected,
                                      const Outcome& got);

}  // namespace moecheck::harness::streams
