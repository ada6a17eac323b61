#pragma once
// Where a rank computes: its memory, and the kernels of a MoE layer in it. The CPU versions, or the GPU kernels of this build on the
// process' device.
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "harness/ranks/communicator.h"
#include "reference/experts.h"
#include "reference/gating.h"

namespace moecheck::gpu {
class Runtime;
}

namespace moecheck::harness::ranks {

class Compute {
 public:
  virtual ~Compute() = default;
  virtual std::string_view name() const = 0;  // "cpu", "cuda", "hip"

  // ---- memory. In the order of the calls; those that bring bytes to the host have waited for them.
  virtual Buffer allocate(std::size_t bytes) = 0;
  virtual void write(const Buffer& to, const void* from, std::size_t bytes) = 0;
  virtual void read(void* to, const Buffer& from, std::size_t bytes) = 0;
  virtual void fill(const Buffer& memory, unsigned char byte, std::size_t bytes) = 0;
  // Row i of `to` = row rows[i] of `from`.
  virtual void gather(const Buffer& to, const Buffer& from, std::size_t row_bytes,
                      std::span<const std::int64_t> rows) = 0;
  // Row rows[i] of `to` = row i of `from`.
  virtual void scatter(const Buffer& to, const Buffer& from, std::size_t row_bytes,
                       std::span<const std::int64_t> rows) = 0;

  // ---- kernels, as in optimized/cpu/*.h, on that memory
  virtual void gating(const reference::GatingOptions& options, reference::ConstView router_logits,
                      reference::ConstView bias, reference::View topk_weights, reference::View topk_ids) = 0;
  virtual void experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
                       reference::View out) = 0;
  virtual void combine(const reference::CombineOptions& options, const reference::CombineInputs& inputs,
                       reference::View out) = 0;
};

std::unique_ptr<Compute> make_cpu_compute();

// The device of this build, number 0 of those that the driver shows, and the stream its kernels run on. UsageError where this build
// has no device's kernels; gpu::DeviceError without a device.
bool has_device_kernels();
struct DeviceCompute {
  std::unique_ptr<Compute> compute;
  gpu::Runtime* runtime = nullptr;
  void* stream = nullptr;  // gpu::Stream
};
DeviceCompute make_device_compute();

}  // namespace moecheck::harness::ranks
