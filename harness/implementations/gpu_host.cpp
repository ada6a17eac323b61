// The adapter between cases and the GPU kernels on the host executor. Compiled twice, as cpu.cpp is: with planted faults it
// defines "gpu-host!NAME".
#include "harness/implementations/gpu_host.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <vector>

#include "harness/operators/gating.h"
#include "optimized/gpu/gating.h"
#include "optimized/gpu/host/executor.h"
#include "reference/gating.h"

namespace moecheck::harness {
namespace {

namespace kernels = MOECHECK_OPTIMIZED;
namespace host = gpu::host;

using reference::ConstView;
using reference::View;

// As the serving frameworks do, a separate step after the kernel.
void remap(const reference::GatingOptions& o, ConstView table, View ids) {
  const std::int64_t tokens = ids.shape[0];
  const bool masked = o.policy.padding != reference::Padding::kCompute;
  const std::int64_t rows = masked ? tokens - o.padded_tokens : tokens;
  for (std::int64_t i = 0; i < rows * o.slots(); ++i) {
    const std::int64_t id = load_int(ids.dtype, ids.data, i);
    if (id >= 0 && id < o.experts) ids.set_int(i, table.int_at(id));
  }
}

void run_gating(const Case& c, const TensorSet& in, TensorSet& out) {
  const reference::GatingOptions o = gating_options(c);
  kernels::gating_host(o, in.view("router_logits"), in.view("e_score_correction_bias"),
                       out.view("topk_weights"), out.view("topk_ids"));
  if (const ConstView table = in.view("logical_to_physical")) remap(o, table, out.view("topk_ids"));
}

struct GpuAdapter {
  std::string_view op;
  std::optional<std::string> (*unsupported)(const Case& c);
  void (*run)(const Case& c, const TensorSet& inputs, TensorSet& outputs);
};

const std::array kAdapters = {
    GpuAdapter{"gating", [](const Case& c) { return kernels::gpu_gating_unsupported(gating_options(c)); },
               run_gating},
};

const GpuAdapter* adapter_of(const Case& c) {
  for (const GpuAdapter& a : kAdapters)
    if (a.op == c.operator_name()) return &a;
  return nullptr;
}

class GpuHost : public Implementation {
 public:
  GpuHost(std::string name, const host::Options& options) : name_(std::move(name)), options_(options) {
    summary_ = fmt::format("the GPU kernels on the host executor: waves of {}, {}", options.wave,
                           host::text(options.order, options.seed));
  }

  std::string_view name() const override { return name_; }
  std::string_view summary() const override { return summary_; }

  std::optional<std::string> unsupported(const Case& c) const override {
    const GpuAdapter* a = adapter_of(c);
    if (a == nullptr) return fmt::format("there is no GPU kernel of {}", c.operator_name());
    return a->unsupported(c);
  }

  // An executor of its own per run: cheap, since an OS thread keeps its fibers.
  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs, const RunOptions&) const override {
    host::Executor executor(options_);
    const host::UseExecutor use(executor);
    adapter_of(c)->run(c, inputs, outputs);
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
