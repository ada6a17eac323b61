#pragma once
// How the GPU kernels of one operator are run on a case. An operator has its adapter in a file of its own here, compiled once per
// backend: for the host executor, clean and with planted faults (optimized/fault.h), and for the device of this build.
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "harness/case.h"
#include "harness/tensor_set.h"
#include "optimized/fault.h"
#include "optimized/gpu/types.h"

#ifndef MOECHECK_GPU_BACKEND
#define MOECHECK_GPU_BACKEND Host
#endif

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

namespace kernels = moecheck::MOECHECK_OPTIMIZED;
using Backend = gpu::MOECHECK_GPU_BACKEND;

// One run. Only launches: no copy between host and device, no wait, so that it can be captured in a graph.
struct GpuCall {
  const Case& c;
  const TensorSet& in;       // where the kernels read: on a device, not readable here
  TensorSet& out;            // where they write
  const TensorSet& host_in;  // the same inputs, readable here: for what a caller knows on the host
  gpu::Stream stream;
  // Memory for the kernels, 256-byte aligned and filled with 0xFF on the stream, until the run has ended.
  std::function<void*(std::size_t bytes)> workspace;
};

struct GpuAdapter {
  std::string_view op;
  std::optional<std::string> (*unsupported)(const Case& c);  // why a case is not supported, or nothing
  void (*run)(const GpuCall& call);
};

inline std::optional<std::string> nothing_unsupported(const Case&) { return std::nullopt; }

extern const GpuAdapter kGating;
extern const GpuAdapter kExperts;
extern const GpuAdapter kMoeBlock;
extern const GpuAdapter kRoutedScaling;
extern const GpuAdapter kSharedExperts;
extern const GpuAdapter kMoeAlign;
extern const GpuAdapter kMqaLogits;
extern const GpuAdapter kIndexerCache;
extern const GpuAdapter kMlaPrepare;

std::span<const GpuAdapter* const> all_gpu_adapters();
// Of the operator; nullptr without GPU kernels.
const GpuAdapter* find_gpu_adapter(std::string_view op);

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
