// Capture: streams that record what is put on them as the nodes of a graph.
#include <algorithm>

#include "optimized/gpu/host/streams.h"

namespace moecheck::gpu::host {

void Device::invalidate(Capture& capture, const std::string& what) {
  if (capture.broken.empty()) capture.broken = what;
  device_error("capture: " + what);
}

void Device::require_valid(const HostStream& s, const std::string& call) const {
  if (!s.capture->broken.empty())
    device_error("capture: " + call + " on " + text(s) + ": its capture is invalid since " +
                 s.capture->broken);
}

void Device::leave_capture(Capture& capture) {
  capture.active = false;
  for (const auto& s : streams_) {
    if (s->capture.get() != &capture) continue;
    s->tail.clear();
    s->capture = nullptr;
  }
}

void Device::begin_capture(HostStream& s) {
  if (s.capture != nullptr) device_error("capture: begin_capture: " + text(s) + " is being captured already");
  s.capture = std::make_shared<Capture>();
  s.capture->origin = &s;
  s.capture->branches = 1;
  s.branch = 0;
}

void Device::add_node(HostStream& s, std::shared_ptr<const Work> work) {
  if (!s.capture->broken.empty()) require_valid(s, text(*work));
  Capture& capture = *s.capture;
  capture.nodes.push_back({std::move(work), std::move(s.tail), s.branch, text(s)});
  s.tail = {capture.nodes.size() - 1};
}

void Device::record_captured(HostEvent& e, HostStream& s) {
  require_valid(s, "record");
  e.last = nullptr;
  e.capture = s.capture;
  e.tail = s.tail;
}

// A stream that waits for an event of a capture becomes part of it.
void Device::wait_captured(HostStream& s, HostEvent& e) {
  const std::string call = "wait_event on " + text(s);
  if (s.capture != nullptr) require_valid(s, "wait_event");
  if (e.capture == nullptr)
    invalidate(
        *s.capture,
        call + ": the event was not recorded in this capture: a graph cannot wait for what is outside it");
  if (!e.capture->active) {
    const std::string what = call + ": the event was last recorded in a capture that has ended";
    if (s.capture != nullptr) invalidate(*s.capture, what);
    device_error("capture: " + what);
  }
  if (s.capture != nullptr && s.capture != e.capture)
    invalidate(*s.capture,
               call + ": the event belongs to another capture, which began on " + text(*e.capture->origin));
  if (s.capture == nullptr) {
    s.capture = e.capture;
    s.branch = s.capture->branches++;
    s.tail.clear();
    require_valid(s, "wait_event");
  }
  for (const std::size_t node : e.tail)
    if (std::find(s.tail.begin(), s.tail.end(), node) == s.tail.end()) s.tail.push_back(node);
}

// The first node that the end of the origin does not come after, in words; empty when there is none.
std::string Device::unjoined(const Capture& capture) const {
  std::vector<bool> joined(capture.nodes.size(), false);
  std::vector<std::size_t> open = capture.origin->tail;
  while (!open.empty()) {
    const std::size_t node = open.back();
    open.pop_back();
    if (joined[node]) continue;
    joined[node] = true;
    open.insert(open.end(), capture.nodes[node].after.begin(), capture.nodes[node].after.end());
  }
  for (std::size_t i = 0; i < joined.size(); ++i)
    if (!joined[i])
      return "unjoined work on " + capture.nodes[i].stream + ": " + text(*capture.nodes[i].work);
  return {};
}

HostGraph* Device::end_capture(HostStream& s) {
  if (s.capture == nullptr)
    device_error("capture: end_capture: " + text(s) + " is not being captured: begin_capture comes first");
  const std::shared_ptr<Capture> capture = s.capture;
  if (capture->origin != &s)
    device_error("capture: end_capture: this capture did not begin on " + text(s) + " but on " +
                 text(*capture->origin) + ", and ends there");
  const std::string left = capture->broken.empty() ? unjoined(*capture) : "";
  leave_capture(*capture);
  if (!capture->broken.empty())
    device_error("capture: end_capture: the capture is invalid since " + capture->broken);
  if (!left.empty())
    device_error("capture: end_capture: " + left + ": record an event after it, and let " + text(s) +
                 " wait for that");
  auto graph = std::make_shared<HostGraph>();
  graph->nodes = std::move(capture->nodes);
  graph->branches.resize(static_cast<std::size_t>(capture->branches));
  for (std::size_t i = 0; i < graph->nodes.size(); ++i)
    graph->branches[static_cast<std::size_t>(graph->nodes[i].branch)].push_back(i);
  for (int b = 1; b < capture->branches; ++b) graph->lanes.push_back(take_lane());
  graphs_[graph.get()] = graph;
  return graph.get();
}

std::vector<const void*> Device::captured_tail(const HostStream& s) const {
  if (s.capture == nullptr) device_error("capture: captured_tail: " + text(s) + " is not being captured");
  require_valid(s, "captured_tail");
  std::vector<const void*> ids;
  for (const std::size_t node : s.tail) ids.push_back(s.capture->nodes[node].work.get());
  return ids;
}

std::vector<GraphNode> Device::read_back(Graph handle) const {
  const auto found = graphs_.find(handle);
  if (found == graphs_.end()) device_error("graph: read_back: no graph of this runtime, or no longer");
  const std::vector<Node>& nodes = found->second->nodes;
  std::vector<GraphNode> all;
  for (const Node& n : nodes) {
    const std::string name = host::name(n.work->kind, n.work->kernel);
    all.push_back({n.work.get(), n.work->kind == OperationKind::kKernel ? "kernel " + name : name, {}});
    for (const std::size_t before : n.after) all.back().after.push_back(nodes[before].work.get());
  }
  return all;
}

}  // namespace moecheck::gpu::host
