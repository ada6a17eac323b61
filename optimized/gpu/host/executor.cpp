#include "optimized/gpu/host/executor.h"

#include <string>

#include "optimized/gpu/host/engine.h"

namespace moecheck::gpu::host {
namespace {
constinit thread_local Executor* chosen = nullptr;
}

Executor::Executor(Options options) : engine_(std::make_unique<Engine>(options)) {}
Executor::~Executor() = default;

void Executor::run(const Launch& launch, void (*body)(void*), void* argument) {
  engine_->run(launch, body, argument);
}

const Options& Executor::options() const { return engine_->options; }
void Executor::set_options(const Options& options) { engine_->options = options; }
const Statistics& Executor::statistics() const { return engine_->statistics; }
void Executor::reset_statistics() { engine_->statistics = {}; }

Executor& Executor::current() {
  if (chosen != nullptr) return *chosen;
  thread_local Executor ordinary;
  return ordinary;
}

UseExecutor::UseExecutor(Executor& executor) : before_(chosen) { chosen = &executor; }
UseExecutor::~UseExecutor() { chosen = before_; }

// The device side, as free functions.

namespace {
// Outside a kernel there is no thread to speak of.
Engine& engine(const char* what) {
  if (running_engine == nullptr) throw Error(Kind::kDevice, std::string(what) + " outside a kernel");
  return *running_engine;
}
}  // namespace

std::uint64_t wave_operation(WaveOp op, std::uint64_t mask, std::uint64_t value, int argument, Site site) {
  return engine("a wave operation").wave_operation(op, mask, value, argument, site);
}
void block_barrier(Site site) { engine("block_barrier").block_barrier(site); }
void* shared_array(std::size_t bytes, std::size_t alignment, const char* name, Site site) {
  return engine("shared memory").shared_array(bytes, alignment, name, site);
}
void* dynamic_shared(Site site) { return engine("shared memory").dynamic_shared(site); }
void spin_pause(Site site) { engine("spin_pause").spin_pause(site); }
void may_spin(Site site) {
  if (running_engine != nullptr) running_engine->may_spin(site);
}
void note_progress() {
  if (running_engine != nullptr) running_engine->note_progress();
}
void note_atomic() {
  if (running_engine == nullptr) return;
  running_engine->note_progress();
  ++running_engine->statistics.atomics;
}
void misaligned(const void* address, std::size_t bytes, Site site) {
  const auto what = [&] {
    return "alignment: an access of " + std::to_string(bytes) + " bytes at " + text(site) +
           " to an address that is " + std::to_string(reinterpret_cast<std::uintptr_t>(address) % bytes) +
           " bytes past a multiple of it";
  };
  if (running_engine == nullptr) throw Error(Kind::kAlignment, what());
  running_engine->fail(Kind::kAlignment, what);
}

}  // namespace moecheck::gpu::host
