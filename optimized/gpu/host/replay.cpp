// Graphs that are launched: which of their nodes may run, and running them.
#include <algorithm>

#include "optimized/gpu/host/streams.h"

namespace moecheck::gpu::host {

void Device::launch(Graph handle, HostStream& s) {
  const auto found = graphs_.find(handle);
  if (found == graphs_.end()) device_error("graph: launch: no graph of this runtime, or no longer");
  if (s.capture != nullptr)
    invalidate(*s.capture, "launch of a graph on " + text(s) + ": it is being captured, and takes no graphs");
  HostGraph& graph = *found->second;
  auto replay = std::make_shared<Replay>();
  replay->graph = found->second;
  replay->before = graph.last.lock();
  replay->left = graph.nodes.size();
  replay->next.resize(graph.branches.size());
  replay->node_done.resize(graph.nodes.size());
  graph.last = replay;
  auto operation = std::make_unique<QueuedOperation>();
  operation->kind = OperationKind::kGraph;
  operation->replay = std::move(replay);
  push(s, std::move(operation));
}

// What is launched still runs.
void Device::destroy_graph(Graph handle) {
  const auto found = graphs_.find(handle);
  if (found == graphs_.end())
    return note_misuse("graph: destroy_graph: no graph of this runtime, or no longer");
  old_lanes_.insert(old_lanes_.end(), found->second->lanes.begin(), found->second->lanes.end());
  graphs_.erase(found);
}

void Device::add_branches(HostStream& s, const Replay& replay) {
  const HostGraph& graph = *replay.graph;
  if (graph.nodes.empty()) choices_.push_back({&s, -1, 0});
  for (std::size_t b = 0; b < graph.branches.size(); ++b) {
    if (replay.next[b] == graph.branches[b].size()) continue;
    const std::size_t node = graph.branches[b][replay.next[b]];
    const std::vector<std::size_t>& after = graph.nodes[node].after;
    if (std::all_of(after.begin(), after.end(), [&](std::size_t n) { return replay.node_done[n] != 0; }))
      choices_.push_back({&s, static_cast<int>(b), node});
  }
}

void Device::start_replay(HostStream& s) {
  QueuedOperation& op = *s.queue.front();
  Replay& r = *op.replay;
  if (r.started) return;
  r.started = true;
  const AsLane as(*s.lane);
  tsan_acquire(&op.sync);
  tsan_acquire(&r.graph->end);
  tsan_release(&r.start);
}

void Device::run_node(HostStream& s, int branch, std::size_t node) {
  start_replay(s);
  Replay& r = *s.queue.front()->replay;
  r.before = nullptr;
  const Node& n = r.graph->nodes[node];
  Lane& lane = branch == 0 ? *s.lane : *r.graph->lanes[static_cast<std::size_t>(branch) - 1];
  trace.push_back({s.number, n.work->kind, branch, n.work->kernel});
  {
    const AsLane as(lane);
    tsan_acquire(&r.start);
    for (const std::size_t before : n.after) tsan_acquire(&r.node_done[before]);
  }
  execute(*n.work, lane, s);
  {
    const AsLane as(lane);
    tsan_release(&r.node_done[node]);
  }
  r.node_done[node] = 1;
  ++r.next[static_cast<std::size_t>(branch)];
  if (--r.left == 0) finish_replay(s);
}

void Device::finish_replay(HostStream& s) {
  Replay& r = *s.queue.front()->replay;
  {
    const AsLane as(*s.lane);
    for (const char& node : r.node_done) tsan_acquire(const_cast<char*>(&node));
    tsan_release(&r.graph->end);
  }
  r.before = nullptr;
  r.done = true;
  trace.push_back({s.number, OperationKind::kGraph, -1, nullptr});
  pop(s);
}

}  // namespace moecheck::gpu::host
