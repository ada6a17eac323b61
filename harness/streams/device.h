#pragma once
// Where stream programs are executed: memory, streams, events and graphs (gpu::Runtime), and the kernels of their operations.
//
//   cpu               one thread per stream; nothing is captured
//   gpu-host          the host executor; gpu-host:w64 with waves of 64
//   cuda, hip         the device of this build
//
// What an order is differs: the host executor runs every stream's work in an order of its choice, which its number chooses (0:
// lowest stream first, 1: highest first, others: a seed). On the CPU and on devices 0 is as it comes, and others put delays
// between operations.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "optimized/gpu/probe.h"
#include "optimized/gpu/runtime.h"
#include "reference/experts.h"
#include "reference/gating.h"
#include "reference/tensor.h"

namespace moecheck::harness::streams {

// Asynchronous, all of them; views are of the device's memory. What each computes: optimized/gpu/probe.h, block_parts.h, gating.h
// and experts.h.
class StreamKernels {
 public:
  virtual ~StreamKernels() = default;

  virtual void absorb(const gpu::ProbeRanges& ranges, std::uint64_t* digest, gpu::Stream stream) const = 0;
  virtual void emit(const gpu::ProbeRanges& ranges, const std::uint64_t* digest, std::uint64_t salt,
                    gpu::Stream stream) const = 0;
  virtual void delay(int microseconds, gpu::Stream stream) const = 0;
  virtual void meet(std::uint32_t* mine, std::uint32_t* other, std::uint32_t* met, int microseconds,
                    gpu::Stream stream) const = 0;

  virtual void router_logits(reference::ConstView x, reference::ConstView gate, reference::View logits,
                             gpu::Stream stream) const = 0;
  virtual void gating(const reference::GatingOptions& options, reference::ConstView router_logits,
                      reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
                      gpu::Stream stream) const = 0;
  virtual std::size_t experts_workspace(const reference::ExpertsOptions& options, reference::DType weights,
                                        std::int64_t tokens) const = 0;
  virtual void experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
                       reference::View out, void* workspace, gpu::Stream stream) const = 0;
  virtual void scale_rows(reference::View x, float factor, gpu::Stream stream) const = 0;
  virtual void add_rows(reference::ConstView x, reference::View y, gpu::Stream stream) const = 0;
};

class StreamDevice {
 public:
  virtual ~StreamDevice() = default;
  virtual gpu::Runtime& runtime() = 0;
  virtual const StreamKernels& kernels() const = 0;
  virtual bool captures() const { return true; }
  // Kernels of two streams can really run at the same time, so that delays and overlap mean something.
  virtual bool parallel() const { return false; }
};

// UsageError for a name that is none of the above; gpu::DeviceError without such a device.
std::unique_ptr<StreamDevice> make_stream_device(const std::string& name, std::uint64_t order);

}  // namespace moecheck::harness::streams
