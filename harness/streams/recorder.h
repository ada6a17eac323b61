#pragma once
// What a host really does to a runtime, recorded as a stream program.
//
//   Recorder recorder(gpu::cuda_runtime());
//   gpu::Stream s = recorder.create_stream();
//   recorder.operation("E", s, {{h, bytes}}, {{y, bytes}});    // what is launched next, and what it touches
//   gpu_experts<gpu::Cuda>(..., s);
//   recorder.done();
//   check_streams(recorder.program());
//
// Recorded are allocations and their release, streams, events, waits, captures and launches of graphs, copies and fills, and the
// kernels that this OS thread launches while the recorder lives (gpu::LaunchObserver). A kernel on another stream than its operation
// declares is an operation of its own, on the stream it is on, with the same accesses. A kernel outside of every operation is one
// that touches nothing: undeclared() counts them, and a program with such kernels may hide races.
// Not recorded: copies between host and device, which wait for nothing and are the host's.
#include <map>
#include <string>
#include <vector>

#include "optimized/gpu/runtime.h"
#include "reference/stream_program.h"

namespace moecheck::harness::streams {

struct Span {
  const void* data = nullptr;
  std::int64_t bytes = 0;
};

class Recorder final : public gpu::Runtime, private gpu::LaunchObserver {
 public:
  // Passes all calls on to `to`, which outlives it. One recorder at a time per OS thread.
  explicit Recorder(gpu::Runtime& to);
  ~Recorder() override;
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // Spans outside of what was allocated here are left out. A name that was there already gets a number behind it.
  void operation(const std::string& name, gpu::Stream stream, const std::vector<Span>& reads,
                 const std::vector<Span>& writes);
  void done();

  const reference::StreamProgram& program() const { return program_; }
  int undeclared() const { return undeclared_; }

  std::string_view api() const override { return to_.api(); }
  std::string device() const override { return to_.device(); }
  void* allocate(std::size_t bytes) override;
  void release(void* memory) noexcept override;
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    to_.copy_in(device, host, bytes);
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    to_.copy_out(host, device, bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes, gpu::Stream stream) override;
  void fill(void* memory, unsigned char byte, std::size_t bytes, gpu::Stream stream) override;
  gpu::Stream create_stream() override;
  void destroy(gpu::Stream stream) noexcept override { to_.destroy(stream); }
  void wait(gpu::Stream stream) override;
  void wait_all() override;
  gpu::Event create_event() override { return to_.create_event(); }
  void destroy_event(gpu::Event event) noexcept override;
  void record(gpu::Event event, gpu::Stream stream) override;
  void wait_event(gpu::Stream stream, gpu::Event event) override;
  double milliseconds(gpu::Event from, gpu::Event to) override { return to_.milliseconds(from, to); }
  void begin_capture(gpu::Stream stream) override;
  gpu::Graph end_capture(gpu::Stream stream) override;
  void launch(gpu::Graph graph, gpu::Stream stream) override;
  void destroy_graph(gpu::Graph graph) noexcept override { to_.destroy_graph(graph); }
  std::vector<const void*> captured_tail(gpu::Stream stream) override { return to_.captured_tail(stream); }
  std::vector<gpu::GraphNode> read_back(gpu::Graph graph) override { return to_.read_back(graph); }

 private:
  void launching(gpu::Stream stream, const void* kernel) override;
  int number(gpu::Stream stream);
  int event_number(gpu::Event event);
  std::string unique(const std::string& name);
  std::vector<reference::ByteRange> ranges(const std::vector<Span>& spans) const;
  void add(reference::StepKind kind, const std::string& name, gpu::Stream stream,
           const std::vector<Span>& reads, const std::vector<Span>& writes);

  gpu::Runtime& to_;
  reference::StreamProgram program_;
  std::map<gpu::Stream, int> streams_;
  std::map<gpu::Event, int> events_;
  std::map<gpu::Graph, int> graphs_;
  std::map<gpu::Stream, int> capturing_;     // origin -> graph
  std::map<const std::byte*, int> buffers_;  // that live, by address
  std::map<std::string, int> names_;
  // The operation under way.
  bool open_ = false;
  std::string name_;
  gpu::Stream stream_ = nullptr;
  std::vector<Span> reads_, writes_;
  int undeclared_ = 0;
};

}  // namespace moecheck::harness::streams
