#pragma once
// The optimized CPU versions as implementations.
#include <memory>
#include <string_view>

#include "harness/implementation.h"

namespace moecheck::harness {

const Implementation& cpu_implementation();           // "cpu": the best instruction set of this machine
const Implementation& cpu_baseline_implementation();  // "cpu-baseline": the lowest that was compiled
// "cpu!NAME": the build with planted faults, NAME switched on during its runs. Precondition: the fault exists.
std::unique_ptr<Implementation> make_faulty_cpu(std::string_view fault);

}  // namespace moecheck::harness
