// The adapter between cases and the GPU kernels on the host executor. Compiled twice, as cpu.cpp is: with planted faults it
// defines "gpu-host!NAME".
#include "harness/implementations/gpu_host.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "harness/implementations/gpu/adapter.h"
#include "optimized/gpu/host/executor.h"

namespace moecheck::harness {
namespace {

namespace host = gpu::host;
namespace adapters = gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND;
namespace kernels = adapters::kernels;

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

class GpuHost : public Implementation {
 public:
  GpuHost(std::string name, const host::Options& options) : name_(std::move(name)), options_(options) {
    summary_ = fmt::format("the GPU kernels on the host executor: waves of {}, {}", options.wave,
                           host::text(options.order, options.seed));
  }

  std::string_view name() const override { return name_; }
  std::string_view summary() const override { return summary_; }

  std::optional<std::string> unsupported(const Case& c) const override {
    const adapters::GpuAdapter* a = adapters::find_gpu_adapter(c.operator_name());
    if (a == nullptr) return fmt::format("there is no GPU kernel of {}", c.operator_name());
    return a->unsupported(c);
  }

  // An executor of its own per run: cheap, since an OS thread keeps its fibers.
  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs, const RunOptions&) const override {
    host::Executor executor(options_);
    const host::UseExecutor use(executor);
    Workspace workspace;
    adapters::find_gpu_adapter(c.operator_name())
        ->run({c, inputs, outputs, inputs, nullptr, [&](std::size_t bytes) { return workspace.get(bytes); }});
  }

 private:
  std::string name_, summary_;
  host::Options options_;
};

bool parse_seed(std::string_view word, std::uint64_t& seed) {
  if (!word.starts_with("seed") || word.size() == 4) return false;
  const auto [end, error] = std::from_chars(word.data() + 4, word.data() + word.size(), seed);
  return error == std::errc() && end == word.data() + word.size();
}

// "gpu-host", "gpu-host:w64:reverse", ...
std::optional<host::Options> parse_schedule(std::string_view name) {
  constexpr std::string_view kName = "gpu-host";
  if (name != kName && !name.starts_with("gpu-host:")) return std::nullopt;
  host::Options options;
  for (std::string_view rest = name.substr(kName.size()); !rest.empty();) {
    rest.remove_prefix(1);
    const std::string_view word = rest.substr(0, rest.find(':'));
    rest.remove_prefix(word.size());
    if (word == "w32" || word == "w64") {
      options.wave = word == "w32" ? 32 : 64;
    } else if (word == "forward" || word == "reverse") {
      options.order = word == "forward" ? host::Order::kForward : host::Order::kReverse;
    } else if (parse_seed(word, options.seed)) {
      options.order = host::Order::kSeeded;
    } else {
      throw UsageError(
          fmt::format("implementation '{}': '{}' is no schedule; use gpu-host with any of w32, w64 and of "
                      "forward, reverse, seedN: "
                      "gpu-host:w64:seed7",
                      name, word));
    }
  }
  return options;
}

#ifdef MOECHECK_FAULTS

class FaultyGpuHost final : public GpuHost {
 public:
  FaultyGpuHost(std::string name, const host::Options& options, const kernels::FaultInfo& info)
      : GpuHost(std::move(name), options), info_(info) {}

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

#endif

}  // namespace

#ifdef MOECHECK_FAULTS

std::span<const PlantedFault> planted_gpu_faults() {
  static const std::vector<PlantedFault> all = [] {
    std::vector<PlantedFault> list;
    for (const kernels::FaultInfo& f : kernels::gpu_faults())
      list.push_back({f.name, f.op, f.class_, f.what, f.upstream});
    return list;
  }();
  return all;
}

std::unique_ptr<Implementation> make_faulty_gpu_host(std::string_view name) {
  const std::size_t mark = name.find('!');
  if (mark == std::string_view::npos) return nullptr;
  const std::optional<host::Options> options = parse_schedule(name.substr(0, mark));
  if (!options) return nullptr;
  for (const kernels::FaultInfo& f : kernels::gpu_faults())
    if (f.name == name.substr(mark + 1))
      return std::make_unique<FaultyGpuHost>(std::string(name), *options, f);
  return nullptr;
}

#else

std::unique_ptr<Implementation> make_gpu_host(std::string_view name) {
  if (name.find('!') != std::string_view::npos) return nullptr;
  const std::optional<host::Options> options = parse_schedule(name);
  if (!options) return nullptr;
  return std::make_unique<GpuHost>(std::string(name), *options);
}

#endif

}  // namespace moecheck::harness
