#pragma once
// The host side of a GPU: memory, streams, events and graphs, alike for CUDA, HIP and the host executor.
//
//   gpu::Runtime& gpu = gpu::cuda_runtime();
//   void* x = gpu.allocate(bytes);
//   gpu::Stream stream = gpu.create_stream();
//   gpu.copy_in(x, host, bytes);
//   gpu_gating<gpu::Cuda>(..., stream);
//   gpu.wait(stream);
//
// The drivers' libraries are opened when first asked for, so that a build without a toolkit reaches a device too (plug-ins do).
// Handles are the drivers' own: a Stream is a cudaStream_t. One device per process, number 0 of those the driver shows.
// A process that has used a device must not fork and use it again in the child.
// Errors: DeviceError where the driver refuses a call (no memory, no device); DeviceLost after the error of a kernel, when no
// further call of this process can succeed; host::Error from the host executor.
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "optimized/gpu/types.h"

namespace moecheck::gpu {

class DeviceLost : public DeviceError {
 public:
  using DeviceError::DeviceError;
};

using Event = void*;
using Graph = void*;  // instantiated: ready to be launched

// A node of a graph as it was captured.
struct GraphNode {
  const void* id = nullptr;
  std::string name;                // "kernel add_one<64>", "copy", "fill", "node of type 5"
  std::vector<const void*> after;  // ids of the nodes it has an edge from
};

class Runtime {
 public:
  virtual ~Runtime() = default;

  virtual std::string_view api() const = 0;     // "cuda", "hip", "host"
  virtual std::string device() const = 0;       // "NVIDIA H100 80GB HBM3 (CUDA driver 13.0)", "AMD Instinct MI300X", "host executor"

  // ---- memory. Copies return when they are done; they wait for nothing that streams still do.
  virtual void* allocate(std::size_t bytes) = 0;  // aligned to 256 bytes; not initialized
  virtual void release(void* memory) noexcept = 0;
  virtual void copy_in(void* device, const void* host, std::size_t bytes) = 0;
  virtual void copy_out(void* host, const void* device, std::size_t bytes) = 0;
  // In the order of the stream.
  virtual void copy(void* to, const void* from, std::size_t bytes, Stream stream) = 0;  // both on the device
  virtual void fill(void* memory, unsigned char byte, std::size_t bytes, Stream stream) = 0;

  // ---- streams: non-blocking ones, ordered by nothing but themselves and events
  virtual Stream create_stream() = 0;
  virtual void destroy(Stream stream) noexcept = 0;
  virtual void wait(Stream stream) = 0;  // for all its work
  virtual void wait_all() = 0;           // for all work of the device

  // ---- events
  virtual Event create_event() = 0;
  virtual void destroy_event(Event event) noexcept = 0;
  virtual void record(Event event, Stream stream) = 0;
  virtual void wait_event(Stream stream, Event event) = 0;  // the stream's next work waits for what is recorded now
  // Between two events that are done. The host executor counts switches of threads, not time.
  virtual double milliseconds(Event from, Event to) = 0;

  // ---- graphs: what is put on `stream`, and on streams that wait for it, is recorded instead of run
  virtual void begin_capture(Stream stream) = 0;
  virtual Graph end_capture(Stream stream) = 0;
  virtual void launch(Graph graph, Stream stream) = 0;
  virtual void destroy_graph(Graph graph) noexcept = 0;
  // Ids of the nodes that the next work put on a captured stream will come after.
  virtual std::vector<const void*> captured_tail(Stream stream) = 0;
  // What the driver holds of a graph of end_capture.
  virtual std::vector<GraphNode> read_back(Graph graph) = 0;
};

// Made at the first call. Throw DeviceError without a driver or a device.
Runtime& cuda_runtime();
Runtime& hip_runtime();

// ---- owners

// Device memory for as long as it lives.
class Memory {
 public:
  Memory() = default;
  Memory(Runtime& runtime, std::size_t bytes) : runtime_(&runtime), data_(runtime.allocate(bytes)), bytes_(bytes) {}
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr) runtime_->release(data_);
  }
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void swap(Memory& other) noexcept {
    Runtime* const r = runtime_;
    void* const d = data_;
    const std::size_t b = bytes_;
    runtime_ = other.runtime_, data_ = other.data_, bytes_ = other.bytes_;
    other.runtime_ = r, other.data_ = d, other.bytes_ = b;
  }
  Runtime* runtime_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace moecheck::gpu
