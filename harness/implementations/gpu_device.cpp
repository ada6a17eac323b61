#include "harness/implementations/gpu_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "harness/device_tensors.h"
#include "harness/implementations/gpu/adapter.h"
#include "harness/implementations/gpu/stream_kernels.h"
#include "harness/implementations/gpu_kernel_use.h"

namespace moecheck::harness {
namespace {

constexpr std::string_view kApis[] = {"cuda", "hip"};

// What this build lacks.
[[noreturn]] void no_kernels(std::string_view api) {
  throw UsageError(fmt::format(
      "this build has no {} kernels: configure with cmake --preset {}; their sources run here on the host "
      "executor, gpu-host",
      api == "cuda" ? "CUDA" : "HIP", api));
}

}  // namespace

#ifdef MOECHECK_GPU_DEVICE

namespace {

namespace adapters = gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND;
constexpr bool kCuda = std::is_same_v<adapters::Backend, gpu::Cuda>;

gpu::Runtime& runtime() { return kCuda ? gpu::cuda_runtime() : gpu::hip_runtime(); }

// The stream all runs of this process use.
gpu::Stream stream() {
  static const gpu::Stream s = runtime().create_stream();
  return s;
}

// What a run asks for, given again in the same order when it is run again.
class Workspace {
 public:
  explicit Workspace(bool poisoned) : poisoned_(poisoned) {}  // not where it would be timed
  void* get(std::size_t bytes) {
    if (next_ == all_.size()) all_.emplace_back(runtime(), bytes);
    gpu::Memory& m = all_[next_++];
    if (m.bytes() < bytes) m = gpu::Memory(runtime(), bytes);
    if (poisoned_) runtime().fill(m.data(), 0xFF, m.bytes(), stream());
    return m.data();
  }
  void rewind() { next_ = 0; }

 private:
  bool poisoned_;
  std::deque<gpu::Memory> all_;
  std::size_t next_ = 0;
};

// A graph for as long as it lives.
class Captured {
 public:
  template <class Launches>
  explicit Captured(Launches&& launches) {
    runtime().begin_capture(stream());
    launches();
    graph_ = runtime().end_capture(stream());
  }
  ~Captured() { runtime().destroy_graph(graph_); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  void replay() const { runtime().launch(graph_, stream()); }

 private:
  gpu::Graph graph_ = nullptr;
};

// Time on the device.
class Timer {
 public:
  Timer() : from_(runtime().create_event()), to_(runtime().create_event()) {}
  ~Timer() {
    runtime().destroy_event(from_);
    runtime().destroy_event(to_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  template <class Work>
  double seconds(Work&& work) const {
    runtime().record(from_, stream());
    work();
    runtime().record(to_, stream());
    runtime().wait(stream());
    return runtime().milliseconds(from_, to_) * 1e-3;
  }

 private:
  gpu::Event from_, to_;
};

class GpuDevice final : public Implementation {
 public:
  GpuDevice(std::string_view name, bool graph) : name_(name), graph_(graph) {
    summary_ = fmt::format("the GPU kernels on a {} device{}", kCuda ? "CUDA" : "HIP",
                           graph ? ", captured and replayed as a graph" : "");
  }

  std::string_view name() const override { return name_; }
  std::string_view summary() const override { return summary_; }
  bool runs_in_workers_only() const override { return true; }

  KernelUse kernel_use(std::string_view op) const override {
    return gpu_kernel_use(op, kCuda ? "cuda" : "hip");
  }

  std::optional<std::string> unsupported(const Case& c) const override {
    const adapters::GpuAdapter* a = adapters::find_gpu_adapter(c.operator_name());
    if (a == nullptr) return fmt::format("there is no GPU kernel of {}", c.operator_name());
    return a->unsupported(c);
  }

  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs, const RunOptions&) const override {
    with_device_errors([&] {
      DeviceTensors tensors(runtime(), inputs, outputs);
      Workspace workspace(true);
      const auto launch = [&] { run_adapter(c, inputs, tensors, workspace); };
      launch();
      if (graph_) {
        runtime().wait(
            stream());  // kernels are loaded and the workspace has its size: what a capture must not do
        const Captured graph(launch);
        for (int i = 0; i < 2; ++i) {
          tensors.reset_outputs();
          graph.replay();
        }
        runtime().wait(stream());
      }
      tensors.finish();
    });
  }

  // A graph of runs on several copies of the tensors, so that what a run reads is not in the cache because the last one read it.
  std::vector<double> time_runs(const Case& c, const TensorSet& inputs, TensorSet& outputs, const RunOptions&,
                                double seconds) const override {
    return with_device_errors([&] {
      constexpr std::size_t kMoreThanCaches = 256u << 20, kCopies = 64;
      const std::size_t bytes = inputs.bytes() + outputs.bytes() + 1;
      std::deque<DeviceTensors> copies;
      for (std::size_t n = std::clamp<std::size_t>(kMoreThanCaches / bytes, 1, kCopies); copies.size() < n;)
        copies.emplace_back(runtime(), inputs, outputs);
      Workspace workspace(false);
      const auto launch = [&] {
        for (DeviceTensors& tensors : copies) run_adapter(c, inputs, tensors, workspace);
      };
      launch();
      runtime().wait(stream());
      const Captured graph(launch);
      const Timer timer;
      std::vector<double> times;
      double total = 0;
      for (int warm = 3; times.size() < 5 || total < seconds;) {
        const double t = timer.seconds([&] { graph.replay(); });
        if (warm-- > 0) continue;
        times.push_back(t / static_cast<double>(copies.size()));
        total += t;
      }
      copies.front().finish();
      return times;
    });
  }

  double copy_bandwidth() const override {
    return with_device_errors([&] {
      constexpr std::size_t kBytes = std::size_t{1} << 30;
      const gpu::Memory from(runtime(), kBytes), to(runtime(), kBytes);
      runtime().fill(from.data(), 0x5A, kBytes, stream());
      const Timer timer;
      double best = 0;
      for (int pass = 0; pass < 8; ++pass)
        best = std::max(best, 2.0 * kBytes / timer.seconds([&] {
          runtime().copy(to.data(), from.data(), kBytes, stream());
        }));
      return best;
    });
  }

 private:
  static void run_adapter(const Case& c, const TensorSet& host_inputs, DeviceTensors& tensors,
                          Workspace& workspace) {
    workspace.rewind();
    adapters::find_gpu_adapter(c.operator_name())
        ->run({c, tensors.inputs(), tensors.outputs(), host_inputs, stream(),
               [&](std::size_t bytes) { return workspace.get(bytes); }});
  }

  std::string name_, summary_;
  bool graph_;
};

}  // namespace

std::unique_ptr<Implementation> make_gpu_device(std::string_view name) {
  for (const std::string_view api : kApis) {
    const bool graph = name == fmt::format("{}:graph", api);
    if (name != api && !graph) continue;
    if (api != (kCuda ? "cuda" : "hip")) no_kernels(api);
    return std::make_unique<GpuDevice>(name, graph);
  }
  return nullptr;
}

namespace {

class GpuStreamDevice final : public streams::StreamDevice {
 public:
  gpu::Runtime& runtime() override { return harness::runtime(); }
  const streams::StreamKernels& kernels() const override { return adapters::stream_kernels(); }
  bool parallel() const override { return true; }
};

}  // namespace

std::unique_ptr<streams::StreamDevice> make_gpu_stream_device(std::string_view name) {
  for (const std::string_view api : kApis)
    if (name == api && api != (kCuda ? "cuda" : "hip")) no_kernels(api);
  return name == (kCuda ? "cuda" : "hip") ? std::make_unique<GpuStreamDevice>() : nullptr;
}

#else

std::unique_ptr<Implementation> make_gpu_device(std::string_view name) {
  for (const std::string_view api : kApis)
    if (name == api || name == fmt::format("{}:graph", api)) no_kernels(api);
  return nullptr;
}

std::unique_ptr<streams::StreamDevice> make_gpu_stream_device(std::string_view name) {
  for (const std::string_view api : kApis)
    if (name == api) no_kernels(api);
  return nullptr;
}

#endif

}  // namespace moecheck::harness
