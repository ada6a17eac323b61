#include "reference/stream_program.h"

#include <algorithm>
#include <map>

#include "reference/index.h"

namespace moecheck::reference {
namespace {

constexpr std::string_view kKindNames[] = {"kernel",        "copy",          "record",      "wait",
                                           "wait_stream",   "host_sync",     "alloc",       "free",
                                           "record_stream", "begin_capture", "end_capture", "launch_graph"};

StreamStep step_of(StepKind kind, int stream) {
  StreamStep s;
  s.kind = kind;
  s.stream = stream;
  return s;
}

int add(StreamProgram& p, StreamStep s) {
  p.steps.push_back(std::move(s));
  return static_cast<int>(p.steps.size()) - 1;
}

}  // namespace

std::string_view name(StreamKind kind) {
  constexpr std::string_view names[] = {"non_blocking", "blocking", "legacy"};
  return names[static_cast<std::size_t>(kind)];
}

std::string_view name(StepKind kind) { return kKindNames[static_cast<std::size_t>(kind)]; }

int StreamProgram::stream(std::string stream_name, StreamKind kind) {
  streams.push_back({std::move(stream_name), kind});
  return static_cast<int>(streams.size()) - 1;
}

int StreamProgram::buffer(std::string buffer_name, std::int64_t bytes, int pool) {
  buffers.push_back({std::move(buffer_name), bytes, pool, -1, 0});
  return static_cast<int>(buffers.size()) - 1;
}

int StreamProgram::view(std::string view_name, int base, std::int64_t offset, std::int64_t bytes) {
  buffers.push_back({std::move(view_name), bytes, -1, base, offset});
  return static_cast<int>(buffers.size()) - 1;
}

int StreamProgram::add_scratch(std::string scratch_name, bool per_stream, std::int64_t bytes) {
  scratch.push_back({std::move(scratch_name), bytes, per_stream});
  return static_cast<int>(scratch.size()) - 1;
}

ByteRange StreamProgram::all(int buffer) const { return {buffer, 0, at(buffers, buffer).bytes}; }

int StreamProgram::kernel(std::string kernel_name, int stream, const std::vector<int>& reads,
                          const std::vector<int>& writes, double duration) {
  StreamStep s = step_of(StepKind::kKernel, stream);
  s.name = std::move(kernel_name);
  for (const int b : reads) s.reads.push_back(all(b));
  for (const int b : writes) s.writes.push_back(all(b));
  s.duration = duration;
  return add(*this, std::move(s));
}

int StreamProgram::record(int event, int stream) {
  StreamStep s = step_of(StepKind::kRecord, stream);
  s.event = event;
  return add(*this, std::move(s));
}

int StreamProgram::record(int stream) {
  events.push_back("e" + std::to_string(events.size()));
  const int event = static_cast<int>(events.size()) - 1;
  record(event, stream);
  return event;
}

int StreamProgram::wait(int stream, int event) {
  StreamStep s = step_of(StepKind::kWait, stream);
  s.event = event;
  return add(*this, std::move(s));
}

int StreamProgram::wait_stream(int stream, int on) {
  StreamStep s = step_of(StepKind::kWaitStream, stream);
  s.on = on;
  return add(*this, std::move(s));
}

int StreamProgram::host_sync(int stream) { return add(*this, step_of(StepKind::kHostSync, stream)); }

int StreamProgram::alloc(int buffer, int reuses) {
  StreamStep s = step_of(StepKind::kAlloc, -1);
  s.buffer = buffer;
  s.reuses = reuses;
  return add(*this, std::move(s));
}

int StreamProgram::free(int buffer) {
  StreamStep s = step_of(StepKind::kFree, -1);
  s.buffer = buffer;
  return add(*this, std::move(s));
}

int StreamProgram::record_stream(int buffer, int stream) {
  StreamStep s = step_of(StepKind::kRecordStream, stream);
  s.buffer = buffer;
  return add(*this, std::move(s));
}

int StreamProgram::begin_capture(int stream, std::string graph) {
  graphs.push_back(std::move(graph));
  StreamStep s = step_of(StepKind::kBeginCapture, stream);
  s.graph = static_cast<int>(graphs.size()) - 1;
  add(*this, std::move(s));
  return static_cast<int>(graphs.size()) - 1;
}

int StreamProgram::end_capture(int stream) { return add(*this, step_of(StepKind::kEndCapture, stream)); }

int StreamProgram::launch_graph(int graph, int stream) {
  StreamStep s = step_of(StepKind::kLaunchGraph, stream);
  s.graph = graph;
  return add(*this, std::move(s));
}

int StreamProgram::find(std::string_view operation) const {
  for (std::size_t i = 0; i < steps.size(); ++i)
    if (is_operation(steps[i]) && steps[i].name == operation) return static_cast<int>(i);
  return -1;
}

std::vector<std::string> step_labels(const StreamProgram& p) {
  const auto label = [&](const StreamStep& s) -> std::string {
    if (!s.name.empty()) return s.name;
    const std::string stream = s.stream >= 0 ? at(p.streams, s.stream).name : "";
    const std::string buffer = s.buffer >= 0 ? at(p.buffers, s.buffer).name : "";
    const std::string event = s.event >= 0 ? "event " + at(p.events, s.event) : "";
    switch (s.kind) {
      case StepKind::kRecord:
        return stream + ".record(" + event + ")";
      case StepKind::kWait:
        return stream + ".wait(" + event + ")";
      case StepKind::kWaitStream:
        return stream + ".wait(" + at(p.streams, s.on).name + ")";
      case StepKind::kHostSync:
        return "host_sync(" + (event.empty() ? stream.empty() ? "device" : stream : event) + ")";
      case StepKind::kRecordStream:
        return "record_stream(" + buffer + ", " + stream + ")";
      case StepKind::kBeginCapture:
        return stream + ".begin_capture(" + at(p.graphs, s.graph) + ")";
      case StepKind::kEndCapture:
        return stream + ".end_capture()";
      case StepKind::kLaunchGraph:
        return stream + ".launch(" + at(p.graphs, s.graph) + ")";
      case StepKind::kAlloc:
      case StepKind::kFree:
        return std::string(reference::name(s.kind)) + "(" + buffer + ")";
      case StepKind::kKernel:
      case StepKind::kCopy:
        break;
    }
    return std::string(reference::name(s.kind));
  };
  std::vector<std::string> labels;
  std::map<std::string, int> seen;
  for (const StreamStep& s : p.steps) {
    std::string l = label(s);
    if (const int n = ++seen[l]; n > 1) l += "#" + std::to_string(n);
    labels.push_back(std::move(l));
  }
  return labels;
}

StreamProgram without_step(const StreamProgram& p, int step) {
  StreamProgram q = p;
  q.steps.clear();
  std::vector<int> moved(p.steps.size(), -1);
  std::vector<bool> recorded(p.events.size());
  for (std::size_t i = 0; i < p.steps.size(); ++i) {
    const StreamStep& s = p.steps[i];
    if (static_cast<int>(i) == step) continue;
    if (s.kind == StepKind::kWait && !recorded[static_cast<std::size_t>(s.event)]) continue;
    if (s.kind == StepKind::kRecord) recorded[static_cast<std::size_t>(s.event)] = true;
    moved[i] = static_cast<int>(q.steps.size());
    q.steps.push_back(s);
  }
  const auto move = [&](int i) { return at(moved, i); };
  for (StreamStep& s : q.steps) {
    std::vector<int> after;
    for (const int a : s.after)
      if (move(a) >= 0) after.push_back(move(a));
    s.after = std::move(after);
  }
  q.overlaps.clear();
  for (const auto& [a, b] : p.overlaps)
    if (move(a) >= 0 && move(b) >= 0) q.overlaps.emplace_back(move(a), move(b));
  return q;
}

ProgramMemory::ProgramMemory(const StreamProgram& p) {
  std::vector<std::int64_t> offsets;
  for (std::size_t b = 0; b < p.buffers.size(); ++b) {
    const ProgramBuffer& buffer = p.buffers[b];
    const bool view = buffer.base >= 0;
    roots_.push_back(view ? at(roots_, buffer.base) : static_cast<int>(b));
    offsets.push_back(view ? at(offsets, buffer.base) + buffer.offset : 0);
    names_.push_back(buffer.name);
  }
  first_scratch_ = static_cast<int>(names_.size());
  std::vector<int> first_copy;
  for (const ProgramScratch& s : p.scratch) {
    first_copy.push_back(static_cast<int>(names_.size()));
    if (!s.per_stream) names_.push_back(s.name);
    if (s.per_stream)
      for (const ProgramStream& stream : p.streams) names_.push_back(s.name + "@" + stream.name);
  }
  for (const StreamStep& s : p.steps) {
    std::vector<Access> list;
    const auto add_range = [&](const ByteRange& r, bool write) {
      const std::int64_t offset = at(offsets, r.buffer);
      list.push_back({at(roots_, r.buffer), r.begin + offset, r.end + offset, write});
    };
    for (const ByteRange& r : s.reads) add_range(r, false);
    for (const ByteRange& r : s.writes) add_range(r, true);
    for (const int scratch : s.scratch) {
      const int copy = at(first_copy, scratch) + (at(p.scratch, scratch).per_stream ? s.stream : 0);
      list.push_back({copy, 0, at(p.scratch, scratch).bytes, false});
      list.push_back({copy, 0, at(p.scratch, scratch).bytes, true});
    }
    accesses_.push_back(std::move(list));
  }
}

}  // namespace moecheck::reference
