// The implementations there are: the CPU versions, the reference itself, and the planted faults.
#include <array>
#include <map>
#include <mutex>
#include <string>

#include "harness/implementations/cpu.h"
#include "harness/implementations/faults.h"
#include "harness/implementations/gpu_device.h"
#include "harness/implementations/gpu_host.h"
#include "harness/operator.h"
#include "harness/plugin/plugin.h"

namespace moecheck::harness {
namespace {

// The reference as an implementation: what `moecheck run` gives by default. It passes by construction, so `check` leaves it out.
class ReferenceImplementation final : public Implementation {
 public:
  std::string_view name() const override { return "reference"; }
  std::string_view summary() const override {
    return "the scalar reference itself, rounded to the outputs' dtypes";
  }
  std::optional<std::string> unsupported(const Case&) const override { return std::nullopt; }
  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs, const RunOptions&) const override {
    const Operator& op = operator_of(c);
    op.reference_outputs(c, inputs, *op.reference(c, inputs), outputs);
  }
};

// All faults, made once.
const std::map<std::string, std::unique_ptr<Implementation>, std::less<>>& faulty() {
  static const auto all = [] {
    std::map<std::string, std::unique_ptr<Implementation>, std::less<>> made;
    for (const PlantedFault& f : planted_faults()) {
      std::unique_ptr<Implementation> impl = make_faulty_cpu(f.name);
      made.emplace(std::string(impl->name()), std::move(impl));
    }
    return made;
  }();
  return all;
}

// The GPU kernels, on a device or on the host executor, where names spell out a schedule: made when asked for.
const Implementation* find_gpu(std::string_view name) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Implementation>, std::less<>> made;
  const std::scoped_lock lock(mutex);
  if (const auto known = made.find(name); known != made.end()) return known->second.get();
  std::unique_ptr<Implementation> impl = make_gpu_host(name);
  if (!impl) impl = make_gpu_device(name);
  return impl ? made.emplace(std::string(name), std::move(impl)).first->second.get() : nullptr;
}

}  // namespace

std::span<const Implementation* const> implementations() {
  static const ReferenceImplementation reference;
  static const std::array<const Implementation*, 3> all = {&cpu_implementation(),
                                                           &cpu_baseline_implementation(), &reference};
  return all;
}

const Implementation* find_implementation(std::string_view name) {
  for (const Implementation* impl : implementations())
    if (impl->name() == name) return impl;
  if (is_plugin_path(name)) return &find_plugin(std::string(name));
  if (const Implementation* impl = find_gpu(name)) return impl;
  const auto fault = faulty().find(name);
  return fault == faulty().end() ? nullptr : fault->second.get();
}

}  // namespace moecheck::harness
