#pragma once
// The accelerators this build can see. A build without CUDA and HIP (the presets dev, release, asan, tsan) sees none.
#include <string>

namespace moecheck::optimized {

// "NVIDIA H100 80GB HBM3 (CUDA driver 13.0, runtime 13.0)", several separated by "; "; empty without a device.
std::string gpu_devices();

}  // namespace moecheck::optimized
