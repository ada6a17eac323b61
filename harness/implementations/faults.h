#pragma once
// Planted faults as implementations: "cpu!NAME" is the CPU version with one bug switched on, "gpu-host!NAME" the GPU kernels on the
// host executor. See optimized/fault.h.
#include <span>
#include <string_view>

#include "harness/implementation.h"

namespace moecheck::harness {

struct PlantedFault {
  std::string_view name, op, class_, what, upstream;
};

std::span<const PlantedFault> planted_faults();      // of the CPU versions
std::span<const PlantedFault> planted_gpu_faults();  // of the GPU kernels

}  // namespace moecheck::harness
