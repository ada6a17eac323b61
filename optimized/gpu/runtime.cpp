// The runtimes of CUDA and HIP through the drivers' libraries. The functions' types are those of their C headers, with plain
// pointers for the handles.
#include "optimized/gpu/runtime.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <utility>

namespace moecheck::gpu {
namespace {

class Driver {
 public:
  explicit Driver(const char* name) : name_(name), library_(dlopen(name, RTLD_NOW | RTLD_GLOBAL)) {
    if (library_ == nullptr)
      throw DeviceError(std::string(name) +
                        " cannot be loaded here: run it on a machine with that kind of GPU and its driver");
  }
  template <class F>
  void bind(F*& function, const char* symbol) const {
    function = reinterpret_cast<F*>(dlsym(library_, symbol));
    if (function == nullptr)
      throw DeviceError(std::string(name_) + " has no " + symbol + ": the driver is too old");
  }

 private:
  const char* name_;
  void* library_;
};

// What both drivers do alike: an error code per call. Derived classes say what a code is called.
class DriverRuntime : public Runtime {
 public:
  explicit DriverRuntime(const char* library) : driver_(library) {}

 protected:
  virtual std::string name_of(int code) const = 0;
  // Of calls that fail for themselves.
  void refuse(int code, const char* call) const {
    if (code != 0) throw DeviceError(text(code, call));
  }
  // Of calls that report what kernels did. 900 to 908 are what a capture forbids, for both drivers.
  void lost(int code, const char* call) const {
    if (code >= 900 && code <= 908) refuse(code, call);
    if (code != 0) throw DeviceLost("an error of the device: " + text(code, call));
  }
  std::string text(int code, const char* call) const { return std::string(call) + " gave " + name_of(code); }

  // Nodes and edges of a graph as it was captured. Both drivers' functions have the same form.
  struct GraphCalls {
    int (*capture_info)(void*, int*, unsigned long long*, void**, const void***, std::size_t*) = nullptr;
    int (*nodes)(void*, void**, std::size_t*) = nullptr;
    int (*edges)(void*, void**, void**, std::size_t*) = nullptr;
    int (*type)(void*, int*) = nullptr;
  };
  virtual std::string kernel_name(void* node) const = 0;

  std::vector<const void*> tail(Stream stream) const {
    int status = 0;
    unsigned long long id = 0;
    void* graph = nullptr;
    const void** after = nullptr;
    std::size_t count = 0;
    refuse(graph_calls_.capture_info(stream, &status, &id, &graph, &after, &count), "stream capture info");
    if (status != 1 /* active */) throw DeviceError("captured_tail: the stream is not being captured");
    return std::vector<const void*>(after, after + count);  // braces would make a list of the two pointers
  }

  std::vector<GraphNode> nodes_of(void* graph) const {
    std::size_t count = 0, edges = 0;
    refuse(graph_calls_.nodes(graph, nullptr, &count), "nodes of a graph");
    std::vector<void*> nodes(count);
    if (count > 0) refuse(graph_calls_.nodes(graph, nodes.data(), &count), "nodes of a graph");
    refuse(graph_calls_.edges(graph, nullptr, nullptr, &edges), "edges of a graph");
    std::vector<void*> from(edges), to(edges);
    if (edges > 0) refuse(graph_calls_.edges(graph, from.data(), to.data(), &edges), "edges of a graph");
    std::vector<GraphNode> all(count);
    std::map<const void*, std::size_t> place;
    for (std::size_t i = 0; i < count; ++i) {
      int type = -1;
      refuse(graph_calls_.type(nodes[i], &type), "type of a node");
      all[i].id = nodes[i];
      all[i].name = type == 0   ? "kernel " + kernel_name(nodes[i])
                    : type == 1 ? "copy"
                    : type == 2 ? "fill"
                                : "node of type " + std::to_string(type);
      place[nodes[i]] = i;
    }
    for (std::size_t e = 0; e < edges; ++e) all[place.at(to[e])].after.push_back(from[e]);
    return all;
  }

  static std::string demangled(const char* symbol) {
    if (symbol == nullptr) return "?";
    int status = 0;
    const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(symbol, nullptr, nullptr, &status), std::free);
    return name ? name.get() : symbol;
  }

  Driver driver_;
  GraphCalls graph_calls_;
  std::map<void*, void*> captured_;  // of each graph that can be launched: the one it was made from
};

class CudaRuntime final : public DriverRuntime {
 public:
  CudaRuntime() : DriverRuntime("libcuda.so.1") {
    int (*init)(unsigned) = nullptr;
    int (*get)(int*, int) = nullptr;
    int (*name)(char*, int, int) = nullptr;
    int (*retain)(void**, int) = nullptr;
    int (*version)(int*) = nullptr;
    driver_.bind(error_name_, "cuGetErrorName");
    driver_.bind(version, "cuDriverGetVersion");
    driver_.bind(init, "cuInit");
    driver_.bind(get, "cuDeviceGet");
    driver_.bind(name, "cuDeviceGetName");
    driver_.bind(retain, "cuDevicePrimaryCtxRetain");
    driver_.bind(set_current_, "cuCtxSetCurrent");
    driver_.bind(allocate_, "cuMemAlloc_v2");
    driver_.bind(free_, "cuMemFree_v2");
    driver_.bind(in_, "cuMemcpyHtoD_v2");
    driver_.bind(out_, "cuMemcpyDtoH_v2");
    driver_.bind(copy_, "cuMemcpyDtoDAsync_v2");
    driver_.bind(fill_, "cuMemsetD8Async");
    driver_.bind(create_stream_, "cuStreamCreate");
    driver_.bind(destroy_stream_, "cuStreamDestroy_v2");
    driver_.bind(wait_stream_, "cuStreamSynchronize");
    driver_.bind(wait_all_, "cuCtxSynchronize");
    driver_.bind(create_event_, "cuEventCreate");
    driver_.bind(destroy_event_, "cuEventDestroy_v2");
    driver_.bind(record_, "cuEventRecord");
    driver_.bind(wait_event_, "cuStreamWaitEvent");
    driver_.bind(elapsed_, "cuEventElapsedTime");
    driver_.bind(begin_capture_, "cuStreamBeginCapture_v2");
    driver_.bind(end_capture_, "cuStreamEndCapture");
    driver_.bind(instantiate_, "cuGraphInstantiateWithFlags");
    driver_.bind(launch_, "cuGraphLaunch");
    driver_.bind(destroy_graph_, "cuGraphDestroy");
    driver_.bind(destroy_exec_, "cuGraphExecDestroy");
    driver_.bind(graph_calls_.capture_info, "cuStreamGetCaptureInfo_v2");
    driver_.bind(graph_calls_.nodes, "cuGraphGetNodes");
    driver_.bind(graph_calls_.edges, "cuGraphGetEdges");
    driver_.bind(graph_calls_.type, "cuGraphNodeGetType");
    driver_.bind(kernel_of_node_, "cuGraphKernelNodeGetParams_v2");
    driver_.bind(function_name_, "cuFuncGetName");
    driver_.bind(kernel_name_, "cuKernelGetName");
    int number = 0;
    char device_name[128] = "";
    refuse(init(0), "cuInit");
    refuse(get(&number, 0), "cuDeviceGet");
    refuse(name(device_name, sizeof device_name, number), "cuDeviceGetName");
    refuse(retain(&context_, number), "cuDevicePrimaryCtxRetain");
    refuse(set_current_(context_), "cuCtxSetCurrent");
    int v = 0;
    (void)version(&v);
    device_ = device_name + (" (CUDA driver " + std::to_string(v / 1000)) + "." + std::to_string(v % 1000 / 10) + ")";
  }

  std::string_view api() const override { return "cuda"; }
  std::string device() const override { return device_; }

  void* allocate(std::size_t bytes) override {
    std::uint64_t memory = 0;
    refuse(allocate_(&memory, bytes == 0 ? 1 : bytes), "cuMemAlloc");
    return reinterpret_cast<void*>(memory);
  }
  void release(void* memory) noexcept override { (void)free_(address(memory)); }
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    lost(in_(address(device), host, bytes), "cuMemcpyHtoD");
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    lost(out_(host, address(device), bytes), "cuMemcpyDtoH");
  }
  void copy(void* to, const void* from, std::size_t bytes, Stream stream) override {
    lost(copy_(address(to), address(from), bytes, stream), "cuMemcpyDtoDAsync");
  }
  void fill(void* memory, unsigned char byte, std::size_t bytes, Stream stream) override {
    lost(fill_(address(memory), byte, bytes, stream), "cuMemsetD8Async");
  }

  Stream create_stream() override {
    Stream stream = nullptr;
    refuse(create_stream_(&stream, 1 /* non-blocking */), "cuStreamCreate");
    return stream;
  }
  void destroy(Stream stream) noexcept override { (void)destroy_stream_(stream); }
  void wait(Stream stream) override { lost(wait_stream_(stream), "cuStreamSynchronize"); }
  void wait_all() override { lost(wait_all_(), "cuCtxSynchronize"); }

  Event create_event() override {
    Event event = nullptr;
    refuse(create_event_(&event, 0), "cuEventCreate");
    return event;
  }
  void destroy_event(Event event) noexcept override { (void)destroy_event_(event); }
  void record(Event event, Stream stream) override { lost(record_(event, stream), "cuEventRecord"); }
  void wait_event(Stream stream, Event event) override { lost(wait_event_(stream, event, 0), "cuStreamWaitEvent"); }
  double milliseconds(Event from, Event to) override {
    float ms = 0;
    lost(elapsed_(&ms, from, to), "cuEventElapsedTime");
    return ms;
  }

  void begin_capture(Stream stream) override {
    refuse(begin_capture_(stream, 2 /* relaxed: other calls of this process stay allowed */), "cuStreamBeginCapture");
  }
  Graph end_capture(Stream stream) override {
    void *graph = nullptr, *ready = nullptr;
    refuse(end_capture_(stream, &graph), "cuStreamEndCapture");
    const int code = instantiate_(&ready, graph, 0);
    if (code != 0) (void)destroy_graph_(graph);
    refuse(code, "cuGraphInstantiate");
    captured_[ready] = graph;
    return ready;
  }
  void launch(Graph graph, Stream stream) override { lost(launch_(graph, stream), "cuGraphLaunch"); }
  void destroy_graph(Graph graph) noexcept override {
    (void)destroy_exec_(graph);
    (void)destroy_graph_(captured_[graph]);
    captured_.erase(graph);
  }
  std::vector<const void*> captured_tail(Stream stream) override { return tail(stream); }
  std::vector<GraphNode> read_back(Graph graph) override { return nodes_of(captured_.at(graph)); }

 private:
  static std::uint64_t address(const void* p) { return reinterpret_cast<std::uint64_t>(p); }
  std::string name_of(int code) const override {
    const char* name = nullptr;
    (void)error_name_(code, &name);
    return name == nullptr ? "error " + std::to_string(code) : name;
  }
  std::string kernel_name(void* node) const override {
    struct {  // CUDA_KERNEL_NODE_PARAMS_v2
      void* function;
      unsigned grid[3], block[3], shared;
      void **parameters, **extra;
      void *kernel, *context;
    } p{};
    refuse(kernel_of_node_(node, &p), "cuGraphKernelNodeGetParams");
    const char* name = nullptr;
    if (p.function != nullptr) (void)function_name_(&name, p.function);
    if (name == nullptr && p.kernel != nullptr) (void)kernel_name_(&name, p.kernel);
    return demangled(name);
  }

  std::string device_;
  void* context_ = nullptr;
  int (*error_name_)(int, const char**) = nullptr;
  int (*set_current_)(void*) = nullptr;
  int (*allocate_)(std::uint64_t*, std::size_t) = nullptr;
  int (*free_)(std::uint64_t) = nullptr;
  int (*in_)(std::uint64_t, const void*, std::size_t) = nullptr;
  int (*out_)(void*, std::uint64_t, std::size_t) = nullptr;
  int (*copy_)(std::uint64_t, std::uint64_t, std::size_t, void*) = nullptr;
  int (*fill_)(std::uint64_t, unsigned char, std::size_t, void*) = nullptr;
  int (*create_stream_)(void**, unsigned) = nullptr;
  int (*destroy_stream_)(void*) = nullptr;
  int (*wait_stream_)(void*) = nullptr;
  int (*wait_all_)() = nullptr;
  int (*create_event_)(void**, unsigned) = nullptr;
  int (*destroy_event_)(void*) = nullptr;
  int (*record_)(void*, void*) = nullptr;
  int (*wait_event_)(void*, void*, unsigned) = nullptr;
  int (*elapsed_)(float*, void*, void*) = nullptr;
  int (*begin_capture_)(void*, int) = nullptr;
  int (*end_capture_)(void*, void**) = nullptr;
  int (*instantiate_)(void**, void*, unsigned long long) = nullptr;
  int (*launch_)(void*, void*) = nullptr;
  int (*destroy_graph_)(void*) = nullptr;
  int (*destroy_exec_)(void*) = nullptr;
  int (*kernel_of_node_)(void*, void*) = nullptr;
  int (*function_name_)(const char**, void*) = nullptr;
  int (*kernel_name_)(const char**, void*) = nullptr;
};

class HipRuntime final : public DriverRuntime {
 public:
  HipRuntime() : DriverRuntime("libamdhip64.so") {
    int (*set_device)(int) = nullptr;
    int (*name)(char*, int, int) = nullptr;
    driver_.bind(error_name_, "hipGetErrorName");
    driver_.bind(set_device, "hipSetDevice");
    driver_.bind(name, "hipDeviceGetName");
    driver_.bind(allocate_, "hipMalloc");
    driver_.bind(free_, "hipFree");
    driver_.bind(copy_, "hipMemcpy");
    driver_.bind(copy_async_, "hipMemcpyAsync");
    driver_.bind(fill_, "hipMemsetAsync");
    driver_.bind(create_stream_, "hipStreamCreateWithFlags");
    driver_.bind(destroy_stream_, "hipStreamDestroy");
    driver_.bind(wait_stream_, "hipStreamSynchronize");
    driver_.bind(wait_all_, "hipDeviceSynchronize");
    driver_.bind(create_event_, "hipEventCreate");
    driver_.bind(destroy_event_, "hipEventDestroy");
    driver_.bind(record_, "hipEventRecord");
    driver_.bind(wait_event_, "hipStreamWaitEvent");
    driver_.bind(elapsed_, "hipEventElapsedTime");
    driver_.bind(begin_capture_, "hipStreamBeginCapture");
    driver_.bind(end_capture_, "hipStreamEndCapture");
    driver_.bind(instantiate_, "hipGraphInstantiate");
    driver_.bind(launch_, "hipGraphLaunch");
    driver_.bind(destroy_graph_, "hipGraphDestroy");
    driver_.bind(destroy_exec_, "hipGraphExecDestroy");
    driver_.bind(graph_calls_.capture_info, "hipStreamGetCaptureInfo_v2");
    driver_.bind(graph_calls_.nodes, "hipGraphGetNodes");
    driver_.bind(graph_calls_.edges, "hipGraphGetEdges");
    driver_.bind(graph_calls_.type, "hipGraphNodeGetType");
    driver_.bind(kernel_of_node_, "hipGraphKernelNodeGetParams");
    driver_.bind(kernel_name_, "hipKernelNameRefByPtr");
    char device_name[256] = "";
    refuse(set_device(0), "hipSetDevice");
    refuse(name(device_name, sizeof device_name, 0), "hipDeviceGetName");
    device_ = device_name;
  }

  std::string_view api() const override { return "hip"; }
  std::string device() const override { return device_; }

  void* allocate(std::size_t bytes) override {
    void* memory = nullptr;
    refuse(allocate_(&memory, bytes == 0 ? 1 : bytes), "hipMalloc");
    return memory;
  }
  void release(void* memory) noexcept override { (void)free_(memory); }
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    lost(copy_(device, host, bytes, 1), "hipMemcpy to the device");
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    lost(copy_(host, device, bytes, 2), "hipMemcpy from the device");
  }
  void copy(void* to, const void* from, std::size_t bytes, Stream stream) override {
    lost(copy_async_(to, from, bytes, 3, stream), "hipMemcpyAsync");
  }
  void fill(void* memory, unsigned char byte, std::size_t bytes, Stream stream) override {
    lost(fill_(memory, byte, bytes, stream), "hipMemsetAsync");
  }

  Stream create_stream() override {
    Stream stream = nullptr;
    refuse(create_stream_(&stream, 1 /* non-blocking */), "hipStreamCreateWithFlags");
    return stream;
  }
  void destroy(Stream stream) noexcept override { (void)destroy_stream_(stream); }
  void wait(Stream stream) override { lost(wait_stream_(stream), "hipStreamSynchronize"); }
  void wait_all() override { lost(wait_all_(), "hipDeviceSynchronize"); }

  Event create_event() override {
    Event event = nullptr;
    refuse(create_event_(&event), "hipEventCreate");
    return event;
  }
  void destroy_event(Event event) noexcept override { (void)destroy_event_(event); }
  void record(Event event, Stream stream) override { lost(record_(event, stream), "hipEventRecord"); }
  void wait_event(Stream stream, Event event) override { lost(wait_event_(stream, event, 0), "hipStreamWaitEvent"); }
  double milliseconds(Event from, Event to) override {
    float ms = 0;
    lost(elapsed_(&ms, from, to), "hipEventElapsedTime");
    return ms;
  }

  void begin_capture(Stream stream) override { refuse(begin_capture_(stream, 2 /* relaxed */), "hipStreamBeginCapture"); }
  Graph end_capture(Stream stream) override {
    void *graph = nullptr, *ready = nullptr;
    refuse(end_capture_(stream, &graph), "hipStreamEndCapture");
    const int code = instantiate_(&ready, graph, nullptr, nullptr, 0);
    if (code != 0) (void)destroy_graph_(graph);
    refuse(code, "hipGraphInstantiate");
    captured_[ready] = graph;
    return ready;
  }
  void launch(Graph graph, Stream stream) override { lost(launch_(graph, stream), "hipGraphLaunch"); }
  void destroy_graph(Graph graph) noexcept override {
    (void)destroy_exec_(graph);
    (void)destroy_graph_(captured_[graph]);
    captured_.erase(graph);
  }
  std::vector<const void*> captured_tail(Stream stream) override { return tail(stream); }
  std::vector<GraphNode> read_back(Graph graph) override { return nodes_of(captured_.at(graph)); }

 private:
  std::string name_of(int code) const override { return error_name_(code); }
  std::string kernel_name(void* node) const override {
    struct {  // hipKernelNodeParams
      unsigned block[3];
      void **extra, *function;
      unsigned grid[3];
      void** parameters;
      unsigned shared;
    } p{};
    refuse(kernel_of_node_(node, &p), "hipGraphKernelNodeGetParams");
    return demangled(p.function == nullptr ? nullptr : kernel_name_(p.function, nullptr));
  }

  std::string device_;
  const char* (*error_name_)(int) = nullptr;
  int (*allocate_)(void**, std::size_t) = nullptr;
  int (*free_)(void*) = nullptr;
  int (*copy_)(void*, const void*, std::size_t, int) = nullptr;
  int (*copy_async_)(void*, const void*, std::size_t, int, void*) = nullptr;
  int (*fill_)(void*, int, std::size_t, void*) = nullptr;
  int (*create_stream_)(void**, unsigned) = nullptr;
  int (*destroy_stream_)(void*) = nullptr;
  int (*wait_stream_)(void*) = nullptr;
  int (*wait_all_)() = nullptr;
  int (*create_event_)(void**) = nullptr;
  int (*destroy_event_)(void*) = nullptr;
  int (*record_)(void*, void*) = nullptr;
  int (*wait_event_)(void*, void*, unsigned) = nullptr;
  int (*elapsed_)(float*, void*, void*) = nullptr;
  int (*begin_capture_)(void*, int) = nullptr;
  int (*end_capture_)(void*, void**) = nullptr;
  int (*instantiate_)(void**, void*, void**, char*, std::size_t) = nullptr;
  int (*launch_)(void*, void*) = nullptr;
  int (*destroy_graph_)(void*) = nullptr;
  int (*destroy_exec_)(void*) = nullptr;
  int (*kernel_of_node_)(void*, void*) = nullptr;
  const char* (*kernel_name_)(const void*, void*) = nullptr;
};

}  // namespace

Runtime& cuda_runtime() {
  static CudaRuntime runtime;
  return runtime;
}

Runtime& hip_runtime() {
  static HipRuntime runtime;
  return runtime;
}

}  // namespace moecheck::gpu
