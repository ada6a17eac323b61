#include "harness/streams/execution.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <set>
#include <utility>

#include "harness/case.h"
#include "harness/random.h"
#include "harness/streams/captured_graph.h"
#include "harness/streams/program_blocks.h"
#include "reference/stream_capture.h"

namespace moecheck::harness::streams {
namespace {

using reference::ByteRange;
using reference::StepKind;
using reference::StreamProgram;
using reference::StreamStep;

constexpr std::int64_t kMostBytes = std::int64_t{2} << 30;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

class Execution {
 public:
  Execution(const StreamProgram& p, StreamDevice& device, OperationBody& body, const ExecuteOptions& options)
      : p_(p),
        device_(device),
        runtime_(options.through != nullptr ? *options.through : device.runtime()),
        body_(body),
        o_(options),
        facts_(capture_facts(p)),
        blocks_(p, runtime_, body, options.serial),
        digests_(runtime_, sizeof(std::uint64_t) * p.steps.size()) {
    for (std::size_t s = 0; s < p.streams.size(); ++s)
      streams_.push_back(o_.serial && s > 0 ? streams_[0] : runtime_.create_stream());
    events_.resize(p.events.size());
    graphs_.resize(p.graphs.size());
    launched_.resize(p.graphs.size());
    for (const StreamStep& s : p.steps)
      if (s.kind == StepKind::kLaunchGraph) launched_[at(s.graph)] = true;
    for (const StreamStep& s : p.steps)
      for (const int a : s.after) marks_[a] = nullptr;
    std::vector<std::uint64_t> first(p.steps.size());
    for (std::size_t i = 0; i < first.size(); ++i)
      if (is_operation(p.steps[i])) first[i] = number_of(p.steps[i].name);
    runtime_.copy_in(digests_.data(), first.data(), first.size() * sizeof first[0]);
    make_scratch();
  }

  ~Execution() {
    for (const gpu::Graph g : graphs_)
      if (g != nullptr) runtime_.destroy_graph(g);
    for (const gpu::Event e : made_) runtime_.destroy_event(e);
    for (std::size_t s = 0; s < streams_.size(); ++s)
      if (!o_.serial || s == 0) runtime_.destroy(streams_[s]);
  }
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;

  Outcome operator()() {
    out_.begin.resize(p_.steps.size());
    out_.end.resize(p_.steps.size());
    try {
      run();
    } catch (const gpu::DeviceLost&) {
      throw;
    } catch (const std::runtime_error& e) {
      // What is captured must be ended before the streams can go; what it says no longer matters.
      for (const auto& [graph, origin] : capturing_) try_end_capture(origin);
      try_wait();
      Outcome refused;
      refused.error = e.what();
      return refused;
    }
    out_.bytes = blocks_.contents();
    out_.digests.resize(p_.steps.size());
    runtime_.copy_out(out_.digests.data(), digests_.data(), out_.digests.size() * sizeof out_.digests[0]);
    return std::move(out_);
  }

 private:
  void run() {
    const gpu::Event start = event(), end = event();
    if (o_.time && !streams_.empty()) {
      runtime_.record(start, streams_[0]);
      for (std::size_t s = 1; s < streams_.size(); ++s) runtime_.wait_event(streams_[s], start);
    }
    for (int pass = 0; pass < o_.repeat; ++pass)
      for (std::size_t i = 0; i < p_.steps.size(); ++i) {
        if (pass > 0 && (p_.steps[i].kind == StepKind::kBeginCapture || facts_.graph_of_step[i] >= 0))
          continue;
        step(static_cast<int>(i));
      }
    if (o_.time && !streams_.empty()) {
      for (std::size_t s = 1; s < streams_.size(); ++s) join(streams_[0], streams_[s]);
      runtime_.record(end, streams_[0]);
    }
    runtime_.wait_all();
    if (o_.time && !streams_.empty()) {
      out_.milliseconds = runtime_.milliseconds(start, end);
      for (const auto& [i, pair] : times_) {
        out_.begin[at(i)] = runtime_.milliseconds(start, pair.first);
        out_.end[at(i)] = runtime_.milliseconds(start, pair.second);
      }
    }
  }

  void step(int i) {
    const StreamStep& s = p_.steps[at(i)];
    const int graph = facts_.graph_of_step[at(i)];
    if (is_operation(s)) return o_.serial && graph >= 0 ? serial_graphs_[graph].push_back(i) : operation(i);
    if (s.kind == StepKind::kBeginCapture && o_.serial) serial_open_[s.stream] = s.graph;
    if (s.kind == StepKind::kEndCapture && o_.serial) {
      const auto open = serial_open_.find(s.stream);
      if (open != serial_open_.end() && !launched_[at(open->second)]) replay_serially(open->second);
      return;
    }
    if (s.kind == StepKind::kLaunchGraph && o_.serial) return replay_serially(s.graph);
    if (o_.serial) return;  // the host's order is all the order there is, and all buffers live
    other_step(i, s, graph);
  }

  void other_step(int i, const StreamStep& s, int graph) {
    switch (s.kind) {
      case StepKind::kRecord:
        return runtime_.record(named_event(s.event), stream(s.stream));
      case StepKind::kWait:
        return runtime_.wait_event(stream(s.stream), named_event(s.event));
      case StepKind::kWaitStream:
        if (s.on != s.stream) join(stream(s.stream), stream(s.on));
        return;
      case StepKind::kHostSync:
        return host_sync(s);
      case StepKind::kAlloc:
        return blocks_.alloc(s, graph);
      case StepKind::kFree:
        return blocks_.free(s, graph);
      case StepKind::kRecordStream:
        return blocks_.record_stream(s);
      case StepKind::kBeginCapture:
        runtime_.begin_capture(stream(s.stream));
        capturing_[s.graph] = stream(s.stream);
        return;
      case StepKind::kEndCapture:
        return end_capture(i, stream(s.stream));
      case StepKind::kLaunchGraph:
        if (graphs_[at(s.graph)] == nullptr)
          throw gpu::DeviceError("a graph is launched whose capture has not ended");
        return runtime_.launch(graphs_[at(s.graph)], stream(s.stream));
      default:
        return;
    }
  }

  void operation(int i) {
    const StreamStep& s = p_.steps[at(i)];
    BoundOperation op{p_, i, stream(s.stream), {}, {}, {}, static_cast<std::uint64_t*>(digests_.data()) + i};
    for (const ByteRange& r : s.reads) op.reads.push_back(blocks_.bind(r));
    for (const ByteRange& r : s.writes) op.writes.push_back(blocks_.bind(r));
    for (const int x : s.scratch)
      op.scratch.push_back(
          {scratch_.at({x, p_.scratch[at(x)].per_stream ? s.stream : -1}), p_.scratch[at(x)].bytes});
    for (const int a : s.after) runtime_.wait_event(op.stream, marks_.at(a));
    if (o_.before) o_.before(op);
    if (device_.parallel() && !o_.delays.empty() && o_.delays[at(i)] > 0)
      device_.kernels().delay(o_.delays[at(i)], op.stream);
    const bool timed = o_.time && facts_.graph_of_step[at(i)] < 0;
    if (timed) {
      if (!times_.contains(i)) times_[i] = {event(), event()};
      runtime_.record(times_[i].first, op.stream);
    }
    body_.launch(op, device_.kernels(), runtime_);
    if (timed) runtime_.record(times_[i].second, op.stream);
    if (o_.after) o_.after(op);
    const int graph = facts_.graph_of_step[at(i)];
    if (graph >= 0 && !o_.serial && facts_.errors.empty())
      tails_[graph].push_back({i, runtime_.captured_tail(op.stream)});
    if (const auto mark = marks_.find(i); mark != marks_.end()) {
      mark->second = event();
      runtime_.record(mark->second, op.stream);
    }
  }

  void replay_serially(int graph) {
    for (const int i : serial_graphs_[graph]) operation(i);
  }

  void end_capture(int i, gpu::Stream origin) {
    int graph = -1;
    for (const auto& [g, s] : capturing_)
      if (s == origin) graph = g;
    const gpu::Graph made = runtime_.end_capture(origin);
    if (graph < 0) throw gpu::DeviceError("a capture ends that did not begin on its stream");
    capturing_.erase(graph);
    graphs_[at(graph)] = made;
    const std::vector<gpu::GraphNode> nodes = runtime_.read_back(made);
    out_.graph_nodes += static_cast<int>(nodes.size());
    for (const gpu::GraphNode& n : nodes) out_.graph_edges += static_cast<int>(n.after.size());
    for (const GraphDifference& d : compare_graph(p_, tails_[graph], nodes)) out_.graph.push_back(d);
    if (!launched_[at(graph)]) runtime_.launch(made, stream(p_.steps[at(i)].stream));
  }

  void host_sync(const StreamStep& s) {
    if (s.event >= 0) {
      const gpu::Stream waiter = runtime_.create_stream();
      runtime_.wait_event(waiter, named_event(s.event));
      runtime_.wait(waiter);
      runtime_.destroy(waiter);
    } else if (s.stream >= 0) {
      runtime_.wait(stream(s.stream));
    } else {
      runtime_.wait_all();
    }
  }

  void join(gpu::Stream waiter, gpu::Stream on) {
    const gpu::Event e = event();
    runtime_.record(e, on);
    runtime_.wait_event(waiter, e);
  }

  void make_scratch() {
    for (std::size_t x = 0; x < p_.scratch.size(); ++x) {
      const int copies = p_.scratch[x].per_stream ? static_cast<int>(p_.streams.size()) : 0;
      for (int s = copies == 0 ? -1 : 0; s < copies; ++s)
        scratch_[{static_cast<int>(x), s}] = blocks_.allocate(p_.scratch[x].bytes);
    }
  }

  gpu::Stream stream(int s) const { return streams_[at(s)]; }
  gpu::Event event() { return made_.emplace_back(runtime_.create_event()); }
  gpu::Event named_event(int e) {
    if (events_[at(e)] == nullptr) events_[at(e)] = event();
    return events_[at(e)];
  }
  void try_end_capture(gpu::Stream origin) noexcept {
    try {
      runtime_.destroy_graph(runtime_.end_capture(origin));
    } catch (const std::exception&) {
    }
  }
  void try_wait() noexcept {
    try {
      runtime_.wait_all();
    } catch (const std::exception&) {
    }
  }

  const StreamProgram& p_;
  StreamDevice& device_;
  gpu::Runtime& runtime_;
  OperationBody& body_;
  const ExecuteOptions& o_;
  reference::CaptureFacts facts_;
  ProgramBlocks blocks_;
  gpu::Memory digests_;
  std::vector<gpu::Stream> streams_;
  std::vector<gpu::Event> events_, made_;
  std::vector<gpu::Graph> graphs_;
  std::vector<bool> launched_;
  std::map<int, gpu::Stream> capturing_;  // graph -> origin
  std::map<int, std::vector<CapturedOperation>> tails_;
  std::map<int, gpu::Event> marks_;  // of steps that others come `after`
  std::map<std::pair<int, int>, std::byte*> scratch_;
  std::map<int, std::vector<int>> serial_graphs_;
  std::map<int, int> serial_open_;
  std::map<int, std::pair<gpu::Event, gpu::Event>> times_;
  Outcome out_;
};

}  // namespace

void require_executable(const StreamProgram& p) {
  if (const std::optional<std::string> why = refusal(p)) throw UsageError(*why);
  for (const reference::ProgramStream& s : p.streams)
    if (s.kind != reference::StreamKind::kNonBlocking)
      throw UsageError(fmt::format("stream {} is {}: only programs of non_blocking streams are executed",
                                   s.name, name(s.kind)));
  std::int64_t bytes = 0;
  for (const reference::ProgramBuffer& b : p.buffers)
    if (b.base < 0) bytes = b.bytes > kMostBytes - bytes ? kMostBytes + 1 : bytes + b.bytes;
  if (bytes > kMostBytes)
    throw UsageError(
        fmt::format("the buffers have more than {} GiB, the most that is executed: make them smaller, in "
                    "proportion; only which bytes overlap matters",
                    kMostBytes >> 30));
  for (std::size_t i = 0; i < p.steps.size(); ++i)
    for (const int a : p.steps[i].after)
      if (at(a) >= i)
        throw UsageError(
            fmt::format("{} comes after {}, which is further down: put the steps in an order that the host "
                        "could launch them in",
                        p.steps[i].name, p.steps[at(a)].name));
}

Outcome execute(const StreamProgram& program, StreamDevice& device, OperationBody& body,
                const ExecuteOptions& options) {
  require_executable(program);
  return Execution(program, device, body, options)();
}

std::optional<std::string> difference(const StreamProgram& program, const Outcome& expected,
                                      const Outcome& got) {
  if (got.error != expected.error) return got.error.empty() ? "no error, where there was one" : got.error;
  for (std::size_t i = 0; i < got.digests.size(); ++i)
    if (got.digests[i] != expected.digests[i])
      return fmt::format("{} read other bytes", program.steps[i].name);
  std::vector<std::string> differ;
  for (const auto& [buffer, bytes] : got.bytes) {
    const auto found = expected.bytes.find(buffer);
    if (found != expected.bytes.end() && found->second != bytes)
      differ.push_back(program.buffers[at(buffer)].name);
  }
  if (differ.empty()) return std::nullopt;
  return fmt::format("other bytes at the end in {}", fmt::join(differ, ", "));
}

}  // namespace moecheck::harness::streams
