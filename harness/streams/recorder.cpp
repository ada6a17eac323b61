#include "harness/streams/recorder.h"

#include <algorithm>
#include <utility>

namespace moecheck::harness::streams {

using reference::ByteRange;
using reference::StepKind;
using reference::StreamStep;

Recorder::Recorder(gpu::Runtime& to) : to_(to) {
  program_.name = "recorded";
  gpu::launch_observer = this;
}
Recorder::~Recorder() { gpu::launch_observer = nullptr; }

void Recorder::operation(const std::string& name, gpu::Stream stream, const std::vector<Span>& reads,
                         const std::vector<Span>& writes) {
  open_ = true;
  name_ = name;
  stream_ = stream;
  reads_ = reads;
  writes_ = writes;
  add(StepKind::kKernel, name, stream, reads, writes);
}

void Recorder::done() { open_ = false; }

void Recorder::launching(gpu::Stream stream, const void*) {
  if (open_ && stream == stream_) return;
  if (!streams_.contains(stream)) return;  // of somebody else
  if (open_) return add(StepKind::kKernel, name_, stream, reads_, writes_);
  ++undeclared_;
  add(StepKind::kKernel, "kernel", stream, {}, {});
}

void* Recorder::allocate(std::size_t bytes) {
  void* const memory = to_.allocate(bytes);
  const int b = program_.buffer("m" + std::to_string(program_.buffers.size()),
                                static_cast<std::int64_t>(std::max<std::size_t>(bytes, 1)));
  program_.alloc(b);
  buffers_[static_cast<const std::byte*>(memory)] = b;
  return memory;
}

void Recorder::release(void* memory) noexcept {
  const auto found = buffers_.find(static_cast<const std::byte*>(memory));
  if (found != buffers_.end()) {
    program_.free(found->second);
    buffers_.erase(found);
  }
  to_.release(memory);
}

void Recorder::copy(void* to, const void* from, std::size_t bytes, gpu::Stream stream) {
  const auto n = static_cast<std::int64_t>(bytes);
  if (!open_ || stream != stream_)
    add(StepKind::kCopy, open_ ? name_ : "copy", stream, {{from, n}}, {{to, n}});
  to_.copy(to, from, bytes, stream);
}

void Recorder::fill(void* memory, unsigned char byte, std::size_t bytes, gpu::Stream stream) {
  if (!open_ || stream != stream_)
    add(StepKind::kKernel, open_ ? name_ : "fill", stream, {}, {{memory, static_cast<std::int64_t>(bytes)}});
  to_.fill(memory, byte, bytes, stream);
}

gpu::Stream Recorder::create_stream() {
  const gpu::Stream s = to_.create_stream();
  streams_[s] = program_.stream("s" + std::to_string(program_.streams.size()));
  return s;
}

void Recorder::wait(gpu::Stream stream) {
  to_.wait(stream);
  program_.host_sync(number(stream));
}
void Recorder::wait_all() {
  to_.wait_all();
  program_.host_sync();
}

void Recorder::destroy_event(gpu::Event event) noexcept {
  events_.erase(event);
  to_.destroy_event(event);
}
void Recorder::record(gpu::Event event, gpu::Stream stream) {
  to_.record(event, stream);
  program_.record(event_number(event), number(stream));
}
// Waiting for an event that was never recorded is no wait.
void Recorder::wait_event(gpu::Stream stream, gpu::Event event) {
  if (events_.contains(event)) program_.wait(number(stream), event_number(event));
  to_.wait_event(stream, event);
}

void Recorder::begin_capture(gpu::Stream stream) {
  to_.begin_capture(stream);
  capturing_[stream] = program_.begin_capture(number(stream), "g" + std::to_string(program_.graphs.size()));
}
gpu::Graph Recorder::end_capture(gpu::Stream stream) {
  const gpu::Graph graph = to_.end_capture(stream);
  program_.end_capture(number(stream));
  if (const auto found = capturing_.find(stream); found != capturing_.end()) {
    graphs_[graph] = found->second;
    capturing_.erase(found);
  }
  return graph;
}
void Recorder::launch(gpu::Graph graph, gpu::Stream stream) {
  to_.launch(graph, stream);
  if (const auto found = graphs_.find(graph); found != graphs_.end())
    program_.launch_graph(found->second, number(stream));
}

int Recorder::number(gpu::Stream stream) {
  const auto found = streams_.find(stream);
  if (found != streams_.end()) return found->second;
  return streams_[stream] = program_.stream("s" + std::to_string(program_.streams.size()));
}

int Recorder::event_number(gpu::Event event) {
  const auto found = events_.find(event);
  if (found != events_.end()) return found->second;
  program_.events.push_back("e" + std::to_string(program_.events.size()));
  return events_[event] = static_cast<int>(program_.events.size()) - 1;
}

std::string Recorder::unique(const std::string& name) {
  const int n = names_[name]++;
  return n == 0 ? name : name + "#" + std::to_string(n + 1);
}

std::vector<ByteRange> Recorder::ranges(const std::vector<Span>& spans) const {
  std::vector<ByteRange> all;
  for (const Span& s : spans) {
    const auto* const data = static_cast<const std::byte*>(s.data);
    auto found = buffers_.upper_bound(data);
    if (found == buffers_.begin() || s.bytes <= 0) continue;
    --found;
    const std::int64_t begin = data - found->first,
                       size = program_.buffers[static_cast<std::size_t>(found->second)].bytes;
    if (begin < size) all.push_back({found->second, begin, std::min(size, begin + s.bytes)});
  }
  return all;
}

void Recorder::add(StepKind kind, const std::string& name, gpu::Stream stream, const std::vector<Span>& reads,
                   const std::vector<Span>& writes) {
  StreamStep s;
  s.kind = kind;
  s.name = unique(name);
  s.stream = number(stream);
  s.reads = ranges(reads);
  s.writes = ranges(writes);
  program_.steps.push_back(std::move(s));
}

}  // namespace moecheck::harness::streams
