#pragma once
// Parts of the contract of routed_scaling (reference/routed_scaling.h), one file each.
#include "harness/operators/common.h"

namespace moecheck::harness {

std::span<const Relation> routed_scaling_relations();
std::vector<Case> routed_scaling_cases(Suite suite);

}  // namespace moecheck::harness
