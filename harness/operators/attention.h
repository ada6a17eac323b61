#pragma once
// Conversions of the contract of attention, also for implementations.
#include "harness/case.h"
#include "harness/tensor_set.h"
#include "reference/glm4_moe.h"

namespace moecheck::harness {

reference::Glm4MoeConfig attention_config(const Case& c);
reference::AttentionWeights attention_weights(const TensorSet& inputs);

}  // namespace moecheck::harness
