#pragma once
// Streams of the CPU: a thread each, that runs what was put on its stream, in order. Two operations that nothing orders can really
// run at the same time, so that ThreadSanitizer sees a missing wait as the data race that it is.
#include <memory>

#include "harness/streams/device.h"

namespace moecheck::harness::streams {

// What an operation throws is thrown, as gpu::DeviceError, by the next wait for its stream or for all. Captures are refused with
// gpu::DeviceError.
std::unique_ptr<StreamDevice> make_cpu_stream_device();

}  // namespace moecheck::harness::streams
