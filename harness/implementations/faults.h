#pragma once
// Planted faults as implementations: "cpu!NAME" is the CPU version with one bug switched on. See optimized/fault.h.
#include <span>
#include <string_view>

#include "harness/implementation.h"

namespace moecheck::harness {

struct PlantedFault {
  std::string_view name, op, class_, what, upstream;
};

std::span<const PlantedFault> planted_faults();

}  // namespace moecheck::harness
