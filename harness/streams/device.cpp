#include "harness/streams/device.h"

#include <fmt/format.h>

#include "harness/case.h"
#include "harness/implementations/gpu_device.h"
#include "harness/implementations/gpu_host.h"
#include "harness/streams/cpu_device.h"
#include "harness/text.h"

namespace moecheck::harness::streams {

std::unique_ptr<StreamDevice> make_stream_device(const std::string& name, std::uint64_t order) {
  if (name == "cpu") return make_cpu_stream_device();
  if (auto device = make_host_stream_device(name, order)) return device;
  if (auto device = make_gpu_stream_device(name)) return device;
  throw UsageError(fmt::format("streams run on cpu, gpu-host, gpu-host:w64, cuda or hip, not on '{}'",
                               printable(name, 60)));
}

}  // namespace moecheck::harness::streams
