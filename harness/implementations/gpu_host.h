#pragma once
// The GPU kernels on the host executor (optimized/gpu/host/executor.h) as implementations:
//   gpu-host                  waves of 32, threads and blocks forward
//   gpu-host:w64:reverse      any of w32 w64, then any of forward reverse seedN (N a number): the schedule is part of the name, so
//                             that the line that repeats a failure repeats it too
//   gpu-host:stream           also the last word: launched on a stream and waited for; gpu-host:w64:seed7:graph: captured on a stream
//                             and replayed twice (optimized/gpu/host/runtime.h)
//   gpu-host!NAME             with a planted fault; also gpu-host:w64:seed7!NAME
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "harness/implementation.h"
#include "harness/implementations/faults.h"
#include "harness/streams/device.h"

namespace moecheck::harness {

// nullptr when `name` is none of the above; UsageError when it begins like one and its schedule is unknown.
std::unique_ptr<Implementation> make_gpu_host(std::string_view name);

// For stream programs: gpu-host or gpu-host:w64, with the order of that number (streams/device.h). nullptr for other names.
std::unique_ptr<streams::StreamDevice> make_host_stream_device(std::string_view name, std::uint64_t order);

// The operators that have GPU kernels.
std::vector<std::string_view> gpu_operators();

}  // namespace moecheck::harness
