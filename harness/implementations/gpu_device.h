#pragma once
// The GPU kernels on the device of this build as implementations:
//   cuda, hip                 launched on a stream
//   cuda:graph, hip:graph     captured into a graph; judged is what its second replay gives
#include <memory>
#include <string_view>

#include "harness/implementation.h"
#include "harness/streams/device.h"

namespace moecheck::harness {

// nullptr when `name` is none of the above; UsageError when this build has no such kernels.
std::unique_ptr<Implementation> make_gpu_device(std::string_view name);

// For stream programs: cuda or hip. nullptr for other names, errors as above.
std::unique_ptr<streams::StreamDevice> make_gpu_stream_device(std::string_view name);

}  // namespace moecheck::harness
