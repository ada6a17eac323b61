#pragma once
// The operators, one file each. A new one: its file here, its line below and in registry.cpp.
#include "harness/operator.h"

namespace moecheck::harness {

const Operator& gating_operator();
const Operator& routed_scaling_operator();
const Operator& shared_experts_operator();
const Operator& moe_align_operator();
const Operator& experts_operator();
const Operator& moe_block_operator();
const Operator& attention_operator();
const Operator& mqa_logits_operator();
const Operator& indexer_cache_operator();
const Operator& mla_prepare_operator();

}  // namespace moecheck::harness
