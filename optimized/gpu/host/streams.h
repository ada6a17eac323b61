#pragma once
// The machinery of the host executor's runtime (runtime.h). Internal.
//
// All bookkeeping is done on the OS thread's own TSan fiber; only what an operation does to memory is done as its lane.
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "optimized/gpu/host/engine.h"
#include "optimized/gpu/host/fiber.h"
#include "optimized/gpu/host/runtime.h"
#include "optimized/gpu/host/sanitizers.h"

namespace moecheck::gpu::host {

// A sequence of operations that are in order, as TSan sees it: a fiber for itself and fibers for its kernels' threads.
struct Lane {
  Lane();
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  FiberPool threads;
  void* fiber = nullptr;
  char done = 0;  // released when the host waits for it
};

std::shared_ptr<Lane> take_lane();

// While it lives TSan takes this OS thread for the lane.
class AsLane {
 public:
  explicit AsLane(const Lane& lane) : before_(tsan_this_fiber()) { tsan_switch(lane.fiber); }
  ~AsLane() { tsan_switch(before_); }
  AsLane(const AsLane&) = delete;
  AsLane& operator=(const AsLane&) = delete;

 private:
  void* before_;
};

// A kernel, a copy or a fill, with its arguments.
struct Work {
  Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  ~Work();

  OperationKind kind = OperationKind::kKernel;
  // kKernel
  const void* kernel = nullptr;
  Launch shape;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  void (*destroy)(void*) = nullptr;
  // kCopy, kFill
  void* to = nullptr;
  const void* from = nullptr;
  std::size_t bytes = 0;
  unsigned char byte = 0;
};

// What wait_event waits for: one call of record().
struct Record {
  bool done = false;
  std::uint64_t switches = 0;
  char sync = 0;
};

struct Node {
  std::shared_ptr<const Work> work;
  std::vector<std::size_t> after;  // nodes
  int branch = 0;                  // nodes of one branch are in order
  std::string stream;              // it was put on, in words
};

struct HostStream;
struct Replay;

// Between begin_capture and end_capture.
struct Capture {
  HostStream* origin = nullptr;
  bool active = true;
  std::string broken;  // why it cannot be ended well
  std::vector<Node> nodes;
  int branches = 0;
};

struct HostGraph {
  std::vector<Node> nodes;
  std::vector<std::vector<std::size_t>> branches;  // nodes of each, in order
  std::vector<std::shared_ptr<Lane>>
      lanes;  // of each but 0, which is in order with the stream it is launched on
  std::weak_ptr<Replay> last;
  char end = 0;  // of its launches, for TSan
};

// A graph that was launched.
struct Replay {
  std::shared_ptr<HostGraph> graph;
  std::shared_ptr<Replay> before;  // the launch before this one: a graph does not overlap itself
  bool started = false, done = false;
  std::size_t left = 0;
  std::vector<std::size_t> next;  // of each branch
  std::vector<char> node_done;    // their addresses are TSan's, too
  char start = 0;
};

struct QueuedOperation {
  OperationKind kind = OperationKind::kKernel;
  std::shared_ptr<const Work> work;
  std::shared_ptr<Record> record;
  std::shared_ptr<Replay> replay;
  char sync = 0;  // what the host did before it
};

struct HostStream {
  int number = 0;
  bool destroyed = false;
  std::deque<std::unique_ptr<QueuedOperation>> queue;
  std::shared_ptr<Lane> lane;
  // While it is captured.
  std::shared_ptr<Capture> capture;
  std::vector<std::size_t> tail;  // nodes its next one comes after
  int branch = 0;
};

struct HostEvent {
  std::shared_ptr<Record> last;
  // When it was recorded in a capture.
  std::shared_ptr<Capture> capture;
  std::vector<std::size_t> tail;
};

class Device {
 public:
  Device(Executor& executor, RuntimeOptions options);
  ~Device();

  // Memory (memory.cpp).
  void* allocate(std::size_t bytes);
  void release(void* memory) noexcept;
  void check_range(const void* p, std::size_t bytes, const std::string& what) const;

  // Streams and events (streams.cpp).
  HostStream& stream(Stream handle, const std::string& call) const;
  HostEvent& event(Event handle, const std::string& call) const;
  HostStream& create_stream();
  void destroy(HostStream& stream);
  HostEvent& create_event();
  void destroy_event(Event handle);
  void put(HostStream& stream, std::shared_ptr<const Work> work);
  void record(HostEvent& event, HostStream& stream);
  void wait_event(HostStream& stream, HostEvent& event);
  void wait(HostStream& stream);
  void wait_all();
  void check_launch(const Launch& shape) const { executor_.engine_->check_launch(shape); }
  // A device that is quick: what seeds may run before anybody waits.
  void run_ahead();
  // What a call that cannot throw found wrong is thrown by the next wait.
  void note_misuse(std::string what) noexcept;

  // Capture (capture.cpp) and graphs (replay.cpp).
  void begin_capture(HostStream& stream);
  HostGraph* end_capture(HostStream& stream);
  void launch(Graph handle, HostStream& stream);
  void destroy_graph(Graph handle);
  std::vector<const void*> captured_tail(const HostStream& stream) const;
  std::vector<GraphNode> read_back(Graph handle) const;

  std::vector<Operation> trace;

 private:
  // What can run now: the operation at the front of a stream's queue, or the next node of a branch of the graph that is there.
  struct Choice {
    HostStream* stream;
    int branch;  // -1: the operation itself
    std::size_t node;
  };
  const std::vector<Choice>& choices();
  void add_branches(HostStream& stream, const Replay& replay);
  Choice pick();
  void step(const std::string& call);
  void run_front(HostStream& stream);
  void run_node(HostStream& stream, int branch, std::size_t node);
  void start_replay(HostStream& stream);
  void finish_replay(HostStream& stream);
  void pop(HostStream& stream);
  void erase(HostStream& stream);
  void execute(const Work& work, Lane& lane, const HostStream& stream);
  void push(HostStream& stream, std::unique_ptr<QueuedOperation> operation);
  [[noreturn]] void stuck(const std::string& call) const;
  void drop_everything();
  void acquire(Lane& lane);
  void acquire_all();
  void free_released();
  bool idle() const;
  std::uint64_t random();

  void add_node(HostStream& stream, std::shared_ptr<const Work> work);
  void leave_capture(Capture& capture);
  void record_captured(HostEvent& event, HostStream& stream);
  void wait_captured(HostStream& stream, HostEvent& event);
  void require_valid(const HostStream& stream, const std::string& call) const;
  [[noreturn]] void invalidate(Capture& capture, const std::string& what);
  std::string unjoined(const Capture& capture) const;

  Executor& executor_;
  RuntimeOptions options_;
  std::vector<std::unique_ptr<HostStream>> streams_;  // by number; destroyed ones until they are empty
  std::map<void*, std::unique_ptr<HostEvent>> events_;
  std::map<void*, std::shared_ptr<HostGraph>> graphs_;
  std::vector<std::shared_ptr<Lane>> old_lanes_;  // of streams and graphs that are gone
  std::map<std::uintptr_t, std::size_t> blocks_;  // bytes of each, by address
  std::vector<void*> released_;                   // filled with 0xFF, to be freed when nothing is queued
  std::vector<Choice> choices_;
  int streams_made_ = 0;
  std::uint64_t switches_ = 0;
  std::uint64_t random_state_ = 0;
  unsigned stay_ = 0;  // of 256: how often kSeeded goes on with the lane it ran last
  bool ahead_ = false;
  Choice last_{nullptr, -1, 0};
  std::string misuse_;
};

// "stream 1"
std::string text(const HostStream& stream);
// "kernel add_one<64>", "copy of 12 bytes"
std::string text(const Work& work);
std::string name(OperationKind kind, const void* kernel);

[[noreturn]] void device_error(const std::string& what);

}  // namespace moecheck::gpu::host
