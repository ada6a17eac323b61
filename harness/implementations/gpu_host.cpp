// The adapter between cases and the GPU kernels on the host executor: "gpu-host" and, with planted faults, "gpu-host!NAME".
#include "harness/implementations/gpu_host.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "harness/implementations/gpu/adapter.h"
#include "harness/implementations/gpu/stream_kernels.h"
#include "harness/implementations/gpu_kernel_use.h"
#include "optimized/gpu/host/executor.h"
#include "optimized/gpu/host/runtime.h"

namespace moecheck::harness {
namespace {

namespace host = gpu::host;
namespace adapters = gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND;
namespace kernels = adapters::kernels;

// How a run's kernels are launched: at once, on a stream, or captured on one and replayed as a graph.
enum class Launching { kAtOnce, kStream, kGraph };

struct Schedule {
  host::Options options;
  Launching launching = Launching::kAtOnce;
};

// What a run asks for: blocks of their own, so that a sanitizer sees a write outside.
class Workspace {
 public:
  void* get(std::size_t bytes) {
    all_.emplace_back(static_cast<std::byte*>(::operator new(bytes, kAlignment)));
    std::memset(all_.back().get(), 0xFF, bytes);
    return all_.back().get();
  }

 private:
  static constexpr std::align_val_t kAlignment{256};
  struct Free {
    void operator()(std::byte* p) const noexcept { ::operator delete(p, kAlignment); }
  };
  std::vector<std::unique_ptr<std::byte, Free>> all_;
};

std::string_view text(Launching launching) {
  if (launching == Launching::kAtOnce) return "";
  return launching == Launching::kStream ? ", on a stream" : ", captured and replayed as a graph";
}

// launches() is called once, and what it puts on `stream` runs twice: outputs begin both times as they are now.
template <class Launches>
void run_as_graph(gpu::Runtime& runtime, gpu::Stream stream, TensorSet& outputs, const Launches& launches) {
  const TensorSet before = outputs;
  runtime.begin_capture(stream);
  launches();
  const gpu::Graph graph = runtime.end_capture(stream);
  runtime.launch(graph, stream);
  runtime.wait(stream);
  for (Tensor& t : outputs.tensors()) std::copy_n(before.at(t.name()).data(), t.bytes(), t.data());
  runtime.launch(graph, stream);
  runtime.wait(stream);
}

class GpuHost : public Implementation {
 public:
  GpuHost(std::string name, const Schedule& schedule) : name_(std::move(name)), schedule_(schedule) {
    const host::Options& o = schedule.options;
    summary_ = fmt::format("the GPU kernels on the host executor: waves of {}, {}{}", o.wave,
                           host::text(o.order, o.seed), text(schedule.launching));
  }

  std::string_view name() const override { return name_; }
  std::string_view summary() const override { return summary_; }

  KernelUse kernel_use(std::string_view op) const override {
    return gpu_kernel_use(op, fmt::format("host wave {}", schedule_.options.wave));
  }

  std::optional<std::string> unsupported(const Case& c) const override {
    const adapters::GpuAdapter* a = adapters::find_gpu_adapter(c.operator_name());
    if (a == nullptr) return fmt::format("there is no GPU kernel of {}", c.operator_name());
    return a->unsupported(c);
  }

  // An executor of its own per run: cheap, since an OS thread keeps its fibers.
  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs, const RunOptions&) const override {
    host::Executor executor(schedule_.options);
    const host::UseExecutor use(executor);
    const adapters::GpuAdapter& adapter = *adapters::find_gpu_adapter(c.operator_name());
    if (schedule_.launching == Launching::kAtOnce) {
      Workspace workspace;
      return adapter.run(
          {c, inputs, outputs, inputs, nullptr, [&](std::size_t bytes) { return workspace.get(bytes); }});
    }
    host::HostRuntime runtime(executor, {.order = schedule_.options.order, .seed = schedule_.options.seed});
    const gpu::Stream stream = runtime.create_stream();
    std::vector<gpu::Memory> memory;
    const auto workspace = [&](std::size_t bytes) {
      void* const block = memory.emplace_back(runtime, bytes).data();
      runtime.fill(block, 0xFF, bytes, stream);
      return block;
    };
    const auto launches = [&] { adapter.run({c, inputs, outputs, inputs, stream, workspace}); };
    if (schedule_.launching == Launching::kGraph) return run_as_graph(runtime, stream, outputs, launches);
    launches();
    runtime.wait(stream);
  }

 private:
  std::string name_, summary_;
  Schedule schedule_;
};

bool parse_seed(std::string_view word, std::uint64_t& seed) {
  if (!word.starts_with("seed") || word.size() == 4) return false;
  const auto [end, error] = std::from_chars(word.data() + 4, word.data() + word.size(), seed);
  return error == std::errc() && end == word.data() + word.size();
}

// "gpu-host", "gpu-host:w64:reverse", "gpu-host:seed7:graph", ...
std::optional<Schedule> parse_schedule(std::string_view name) {
  constexpr std::string_view kName = "gpu-host";
  if (name != kName && !name.starts_with("gpu-host:")) return std::nullopt;
  Schedule schedule;
  host::Options& options = schedule.options;
  for (std::string_view rest = name.substr(kName.size()); !rest.empty();) {
    rest.remove_prefix(1);
    const std::string_view word = rest.substr(0, rest.find(':'));
    rest.remove_prefix(word.size());
    if (word == "w32" || word == "w64") {
      options.wave = word == "w32" ? 32 : 64;
    } else if (word == "forward" || word == "reverse") {
      options.order = word == "forward" ? host::Order::kForward : host::Order::kReverse;
    } else if (word == "stream" || word == "graph") {
      schedule.launching = word == "stream" ? Launching::kStream : Launching::kGraph;
    } else if (parse_seed(word, options.seed)) {
      options.order = host::Order::kSeeded;
    } else {
      throw UsageError(
          fmt::format("implementation '{}': '{}' is no schedule; use gpu-host with any of w32, w64 and of "
                      "forward, reverse, seedN and of stream, graph: "
                      "gpu-host:w64:seed7:graph",
                      name, word));
    }
  }
  return schedule;
}

class FaultyGpuHost final : public GpuHost {
 public:
  FaultyGpuHost(std::string name, const Schedule& schedule, const kernels::FaultInfo& info)
      : GpuHost(std::move(name), schedule), info_(info) {}

  std::string_view summary() const override { return info_.what; }

  std::optional<std::string> unsupported(const Case& c) const override {
    if (c.operator_name() != info_.op) return fmt::format("this fault is in {}", info_.op);
    return GpuHost::unsupported(c);
  }

  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs,
           const RunOptions& options) const override {
    const kernels::ScopedFault chosen(info_.id);
    GpuHost::run(c, inputs, outputs, options);
  }

 private:
  kernels::FaultInfo info_;
};

class HostStreamDevice final : public streams::StreamDevice {
 public:
  HostStreamDevice(int wave, std::uint64_t order)
      : executor_({.wave = wave}),
        runtime_(executor_, {.order = order == 0   ? host::Order::kForward
                                      : order == 1 ? host::Order::kReverse
                                                   : host::Order::kSeeded,
                             .seed = order}) {}
  gpu::Runtime& runtime() override { return runtime_; }
  const streams::StreamKernels& kernels() const override { return adapters::stream_kernels(); }

 private:
  host::Executor executor_;
  host::UseExecutor use_{executor_};
  host::HostRuntime runtime_;
};

}  // namespace

std::unique_ptr<streams::StreamDevice> make_host_stream_device(std::string_view name, std::uint64_t order) {
  if (name != "gpu-host" && name != "gpu-host:w64") return nullptr;
  return std::make_unique<HostStreamDevice>(name.ends_with("w64") ? 64 : 32, order);
}

std::span<const PlantedFault> planted_gpu_faults() {
  static const std::vector<PlantedFault> all = [] {
    std::vector<PlantedFault> list;
    for (const kernels::FaultInfo& f : kernels::gpu_faults())
      list.push_back({f.name, f.op, f.class_, f.what, f.upstream});
    return list;
  }();
  return all;
}

std::vector<std::string_view> gpu_operators() {
  std::vector<std::string_view> list;
  for (const adapters::GpuAdapter* a : adapters::all_gpu_adapters()) list.push_back(a->op);
  return list;
}

std::unique_ptr<Implementation> make_gpu_host(std::string_view name) {
  const std::size_t mark = std::min(name.find('!'), name.size());
  const std::optional<Schedule> schedule = parse_schedule(name.substr(0, mark));
  if (!schedule) return nullptr;
  if (mark == name.size()) return std::make_unique<GpuHost>(std::string(name), *schedule);
  for (const kernels::FaultInfo& f : kernels::gpu_faults())
    if (f.name == name.substr(mark + 1))
      return std::make_unique<FaultyGpuHost>(std::string(name), *schedule, f);
  return nullptr;
}

}  // namespace moecheck::harness
