#pragma once
// Parts of the contract of shared_experts (reference/shared_experts.h), one file each.
#include "harness/operators/common.h"

namespace moecheck::harness {

std::string slots_cause(const Case& c, const reference::Slots& expected, const TensorSet& outputs);
std::string weights_cause(const Case& c, const TensorSet& inputs, const TensorSet& outputs);
std::span<const Relation> shared_experts_relations();
std::vector<Case> shared_experts_cases(Suite suite);

}  // namespace moecheck::harness
