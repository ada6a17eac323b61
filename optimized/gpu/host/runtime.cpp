#include "optimized/gpu/host/runtime.h"

#include <cstring>
#include <mutex>

#include "optimized/gpu/host/sanitizers.h"
#include "optimized/gpu/host/streams.h"
#include "optimized/gpu/host/symbols.h"

namespace moecheck::gpu::host {
namespace {

// Whose stream a handle is, for launches, which are given nothing else.
class StreamOwners {
 public:
  void add(Stream stream, Device* device) {
    const std::lock_guard lock(mutex_);
    owners_[stream] = device;
  }
  void remove(Stream stream) {
    const std::lock_guard lock(mutex_);
    owners_.erase(stream);
  }
  void remove_all(const Device* device) {
    const std::lock_guard lock(mutex_);
    std::erase_if(owners_, [&](const auto& entry) { return entry.second == device; });
  }
  Device* find(Stream stream) {
    const std::lock_guard lock(mutex_);
    const auto found = owners_.find(stream);
    return found == owners_.end() ? nullptr : found->second;
  }

 private:
  std::mutex mutex_;
  std::map<Stream, Device*> owners_;
};

StreamOwners& owners() {
  static StreamOwners all;
  return all;
}

}  // namespace

void device_error(const std::string& what) { throw Error(Kind::kDevice, what); }

std::string name(OperationKind kind, const void* kernel) {
  switch (kind) {
    case OperationKind::kKernel:
      return function_name(kernel);
    case OperationKind::kCopy:
      return "copy";
    case OperationKind::kFill:
      return "fill";
    case OperationKind::kRecord:
      return "record";
    case OperationKind::kWait:
      return "wait";
    case OperationKind::kGraph:
      return "graph";
  }
  return "?";
}

std::string Operation::name() const { return host::name(kind, kernel); }

void enqueue(Stream stream, const Launch& launch, const void* kernel, void (*body)(void*), void* arguments,
             void (*destroy)(void*)) {
  auto work = std::make_shared<Work>();
  work->kind = OperationKind::kKernel;
  work->kernel = kernel;
  work->shape = launch;
  work->body = body;
  work->arguments = arguments;
  work->destroy = destroy;
  Device* const device = owners().find(stream);
  if (device == nullptr)
    device_error("stream: a launch of " + function_name(kernel) +
                 " on what is no stream of the host executor, or no longer");
  device->check_launch(launch);
  device->run_ahead();
  device->put(device->stream(stream, "launch"), std::move(work));
}

HostRuntime::HostRuntime(Executor& executor, RuntimeOptions options)
    : device_(std::make_unique<Device>(executor, options)) {}
HostRuntime::~HostRuntime() { owners().remove_all(device_.get()); }

const std::vector<Operation>& HostRuntime::trace() const { return device_->trace; }
void HostRuntime::clear_trace() { device_->trace.clear(); }
std::string HostRuntime::trace_text() const {
  std::string all;
  for (const Operation& o : trace())
    all += (all.empty() ? "" : ", ") + std::to_string(o.stream) + " " + o.name();
  return all;
}

void* HostRuntime::allocate(std::size_t bytes) { return device_->allocate(bytes); }
void HostRuntime::release(void* memory) noexcept { device_->release(memory); }

void HostRuntime::copy_in(void* device, const void* host, std::size_t bytes) {
  device_->check_range(device, bytes, "copy_in");
  device_->run_ahead();
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void HostRuntime::copy_out(void* host, const void* device, std::size_t bytes) {
  device_->check_range(device, bytes, "copy_out");
  device_->run_ahead();
  if (bytes > 0) std::memcpy(host, device, bytes);
}

void HostRuntime::copy(void* to, const void* from, std::size_t bytes, Stream stream) {
  HostStream& s = device_->stream(stream, "copy");
  device_->check_range(to, bytes, "copy, target");
  device_->check_range(from, bytes, "copy, source");
  auto work = std::make_shared<Work>();
  work->kind = OperationKind::kCopy;
  work->to = to;
  work->from = from;
  work->bytes = bytes;
  device_->run_ahead();
  device_->put(s, std::move(work));
}

void HostRuntime::fill(void* memory, unsigned char byte, std::size_t bytes, Stream stream) {
  HostStream& s = device_->stream(stream, "fill");
  device_->check_range(memory, bytes, "fill");
  auto work = std::make_shared<Work>();
  work->kind = OperationKind::kFill;
  work->to = memory;
  work->byte = byte;
  work->bytes = bytes;
  device_->run_ahead();
  device_->put(s, std::move(work));
}

Stream HostRuntime::create_stream() {
  HostStream* const stream = &device_->create_stream();
  owners().add(stream, device_.get());
  return stream;
}

void HostRuntime::destroy(Stream stream) noexcept {
  if (stream == nullptr) return;
  try {
    device_->destroy(device_->stream(stream, "destroy"));
    owners().remove(stream);
  } catch (const Error& e) {
    device_->note_misuse(e.what());
  }
}

void HostRuntime::wait(Stream stream) { device_->wait(device_->stream(stream, "wait")); }
void HostRuntime::wait_all() { device_->wait_all(); }

Event HostRuntime::create_event() { return &device_->create_event(); }
void HostRuntime::destroy_event(Event event) noexcept {
  if (event != nullptr) device_->destroy_event(event);
}

void HostRuntime::record(Event event, Stream stream) {
  HostEvent& e = device_->event(event, "record");
  HostStream& s = device_->stream(stream, "record");
  device_->run_ahead();
  device_->record(e, s);
}

void HostRuntime::wait_event(Stream stream, Event event) {
  HostStream& s = device_->stream(stream, "wait_event");
  HostEvent& e = device_->event(event, "wait_event");
  device_->run_ahead();
  device_->wait_event(s, e);
}

double HostRuntime::milliseconds(Event from, Event to) {
  const auto switches = [&](Event event) {
    const HostEvent& e = device_->event(event, "milliseconds");
    if (e.capture != nullptr)
      device_error("event: milliseconds: an event that was last recorded in a capture");
    if (e.last == nullptr) device_error("event: milliseconds: an event that was never recorded");
    if (!e.last->done)
      device_error("event: milliseconds: an event that is not done: wait for its stream first");
    return static_cast<double>(e.last->switches);
  };
  const double before = switches(from);
  return switches(to) - before;
}

void HostRuntime::begin_capture(Stream stream) {
  device_->begin_capture(device_->stream(stream, "begin_capture"));
}
Graph HostRuntime::end_capture(Stream stream) {
  return device_->end_capture(device_->stream(stream, "end_capture"));
}

void HostRuntime::launch(Graph graph, Stream stream) {
  HostStream& s = device_->stream(stream, "launch of a graph");
  device_->run_ahead();
  device_->launch(graph, s);
}

void HostRuntime::destroy_graph(Graph graph) noexcept {
  if (graph != nullptr) device_->destroy_graph(graph);
}
std::vector<const void*> HostRuntime::captured_tail(Stream stream) {
  return device_->captured_tail(device_->stream(stream, "captured_tail"));
}
std::vector<GraphNode> HostRuntime::read_back(Graph graph) { return device_->read_back(graph); }

}  // namespace moecheck::gpu::host
