#pragma once
// gpu::Runtime on the host executor: memory, streams, events and graphs of a device whose work runs in any order that is legal.
//
//   Executor executor({.wave = 64});
//   HostRuntime runtime(executor, {.order = Order::kSeeded, .seed = 7});
//   gpu::Stream a = runtime.create_stream(), b = runtime.create_stream();
//   gpu::launch(produce<64>, {.grid = 8, .block = 64, .stream = a}, x);
//   gpu::launch(consume<64>, {.grid = 8, .block = 64, .stream = b}, x, y);   // nothing orders it after produce
//   runtime.wait(b);                                                         // some orders give a wrong y
//
// What is put on a stream waits in its queue, arguments bound by value, until somebody waits. Then operations run one after the
// other, whole, each stream in its order, until the stream that is waited for is empty:
//   kForward   the lowest-numbered stream as far as it can go, then the next
//   kReverse   the highest-numbered one
//   kSeeded    any, by the seed: now in turns, now one stream far ahead of another. With every other seed some of it runs before
//              anybody waits, at other calls, as a device that is quick would.
// What the waited-for stream does not depend on may or may not have run then. The nodes of a graph are ordered by nothing but the
// edges of its capture, one branch for each stream that was captured. Kernels that run at once with one of another stream and wait
// for it are not supported: they end as a livelock.
//
// Errors are host::Error. Of kind kDevice: handles that are none, events that are not done, copies and fills outside allocated
// memory or of memory that was released before they ran, and of capture:
//   begun twice; ended without a beginning, on another stream than it began on, or with work of another stream that was not
//   joined; a wait for an event that was recorded outside it, or whose capture has ended; waiting for a stream that is captured.
//   As on a device, a call that capture forbids makes the capture invalid: end_capture says so.
// A launch that no device accepts is refused where it is launched. What a kernel does wrong is thrown where its work is waited
// for; all queued work is dropped then, and the runtime can be used again.
//
// Memory. Blocks are the heap's, 256-byte aligned, filled with 0xFF. release() frees at once: ASan sees an operation that uses
// the memory later. Without ASan the block is filled with 0xFF and kept until no work is queued.
//
// TSan. Each stream, and each branch of a graph, is a TSan fiber with GPU threads of its own. The order of a stream, events, the
// edges of graphs and waits are what orders memory: two kernels on different streams that touch the same memory without an event
// between them are a data race whatever the order, and so is a copy_out without a wait.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "optimized/gpu/host/executor.h"
#include "optimized/gpu/runtime.h"

namespace moecheck::gpu::host {

struct RuntimeOptions {
  Order order = Order::kForward;
  std::uint64_t seed = 0;  // of kSeeded
};

enum class OperationKind : std::uint8_t { kKernel, kCopy, kFill, kRecord, kWait, kGraph };

// Something that ran. A graph is listed by its nodes, then kGraph when all of them are done.
struct Operation {
  int stream = 0;  // number: streams count from 0 as they are created
  OperationKind kind = OperationKind::kKernel;
  int branch = -1;               // of the graph it is a node of
  const void* kernel = nullptr;  // its function

  // The kernel's name ("add_one<64>") or "copy", "fill", "record", "wait", "graph".
  std::string name() const;
};

class Device;

// One OS thread at a time may use it. Destroying it drops what has not run, and frees all memory.
class HostRuntime final : public Runtime {
 public:
  // Kernels run on `executor`, which outlives it.
  explicit HostRuntime(Executor& executor, RuntimeOptions options = {});
  ~HostRuntime() override;
  HostRuntime(const HostRuntime&) = delete;
  HostRuntime& operator=(const HostRuntime&) = delete;

  // What ran, in order; "0 add_one<64>, 1 copy" as text.
  const std::vector<Operation>& trace() const;
  std::string trace_text() const;
  void clear_trace();

  std::string_view api() const override { return "host"; }
  std::string device() const override { return "host executor"; }

  void* allocate(std::size_t bytes) override;
  void release(void* memory) noexcept override;
  void copy_in(void* device, const void* host, std::size_t bytes) override;
  void copy_out(void* host, const void* device, std::size_t bytes) override;
  void copy(void* to, const void* from, std::size_t bytes, Stream stream) override;
  void fill(void* memory, unsigned char byte, std::size_t bytes, Stream stream) override;

  Stream create_stream() override;
  void destroy(Stream stream) noexcept override;  // what is queued still runs
  void wait(Stream stream) override;
  void wait_all() override;

  Event create_event() override;
  void destroy_event(Event event) noexcept override;
  void record(Event event, Stream stream) override;
  void wait_event(Stream stream, Event event) override;
  double milliseconds(Event from, Event to) override;  // switches between fibers

  void begin_capture(Stream stream) override;
  Graph end_capture(Stream stream) override;
  void launch(Graph graph, Stream stream) override;
  void destroy_graph(Graph graph) noexcept override;
  std::vector<const void*> captured_tail(Stream stream) override;
  std::vector<GraphNode> read_back(Graph graph) override;

 private:
  std::unique_ptr<Device> device_;
};

}  // namespace moecheck::gpu::host
